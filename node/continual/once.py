"""Work that is begun once and waited for as often as somebody asks, each for a bounded time."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

LONGEST_WAIT_S: Final = 30.0


class Once:
    """Work that is begun once and waited for by as many as ask; its key is free at its end."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    def begin(self, key: str, work: Callable[[], Any]) -> "asyncio.Task[Any]":
        """The task of that key, begun now where there is none."""
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda ended: self._forget(key, ended))
        return self._tasks[key]

    def cancel(self) -> None:
        """Wait for none of it any more."""
        for task in self._tasks.values():
            task.cancel()

    def _forget(self, key: str, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: who asked for it may be gone


async def within(task: "asyncio.Task[Any]", wait_s: float) -> Any:
    """What a task gives, or None where that takes longer; the task goes on."""
    await asyncio.wait({task}, timeout=bounded(wait_s))
    return task.result() if task.done() else None


def bounded(wait_s: float) -> float:
    """How long a caller may wait that asks for so long."""
    if not math.isfinite(wait_s):
        return 0.0
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)
