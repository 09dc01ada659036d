"""Work that blocks, off the event loop. Internal."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Run a function in a thread, and wait until it has ended, also when cancelled.

    A thread cannot be stopped; who is cancelled must not close a file under it.
    The cancellation is raised once the function has ended.
    """
    task = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    await ended(task)
    return task.result()


class Threads:
    """Threads of one's own, for work that somebody at the other end waits for.

    Those of the event loop may be busy for minutes: with a merge, with hashing.

    Args:
        count: how many.
        name: what they are called in a stack dump.
    """

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    def begin(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> "asyncio.Future[Result]":
        """Start a function; whoever waits for it does not cancel it (`ended`)."""
        call = partial(function, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Let the threads go once what they do is done; does not wait."""
        self._executor.shutdown(wait=False)


async def ended(task: "asyncio.Future[Result]") -> None:
    """Wait until a task has ended; a cancellation of the waiter is raised only then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
