"""Work that blocks, off the event loop. Internal."""

import asyncio
from collections.abc import Callable
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


async def ended(task: "asyncio.Task[Result]") -> None:
    """Wait until a task has ended; a cancellation of the waiter is raised only then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
