"""A daemon's life: work that never ends, until a signal or an error ends it. Internal."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def stop_signals(then: Callable[[], None] = lambda: None) -> Iterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets.

    Args:
        then: called as well, at each of them.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        then()

    chosen = (signal.SIGTERM, signal.SIGINT)
    for one in chosen:
        loop.add_signal_handler(one, end)
    try:
        yield stop
    finally:
        for one in chosen:
            loop.remove_signal_handler(one)


async def until(stop: asyncio.Event, work: Sequence[Awaitable[None]]) -> None:
    """Do work that never ends until told to stop; an error in it ends all."""
    tasks = [asyncio.ensure_future(one) for one in (stop.wait(), *work)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
