"""Waiting for the node's own state to change, with a deadline.

The life of the node changes state and calls `notify`; services that were asked
for something that is not there yet wait here instead of polling.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Board:
    """Wakes every waiter at each change; all calls belong to one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Something changed: every waiter looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, look: Callable[[], T | None], timeout_s: float) -> T | None:
        """What `look` finds as soon as it is not None, or None after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (found := look()) is None:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or not await self._change_within(left):
                return look()
        return found

    async def _change_within(self, timeout_s: float) -> bool:
        # Not asyncio.wait_for: Python 3.11's swallows a cancellation that comes
        # together with the result.
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
