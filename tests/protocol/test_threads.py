"""Work in threads: whoever is cancelled still waits until the thread has ended."""

import asyncio
import threading

import pytest

from weft.protocol.threads import Threads, ended, in_thread


async def test_results_and_errors_come_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_a_cancellation_waits_for_the_thread() -> None:
    go_on, log = threading.Event(), []

    def work() -> None:
        go_on.wait(5)
        log.append("thread ended")

    async def user() -> None:
        try:
            await in_thread(work)
        finally:
            log.append("file closed")

    task = asyncio.create_task(user())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    assert log == []
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["thread ended", "file closed"]


async def test_waiting_does_not_cancel_what_is_waited_for() -> None:
    inner = asyncio.create_task(asyncio.sleep(0.1, "done"))
    outer = asyncio.create_task(ended(inner))
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert inner.result() == "done"


async def test_threads_of_ones_own_do_not_wait_for_the_loops() -> None:
    loop, go_on = asyncio.get_running_loop(), threading.Event()
    busy = [loop.run_in_executor(None, go_on.wait, 10) for _ in range(64)]
    own = Threads(1, "own")
    async with asyncio.timeout(2):
        assert await own.begin(divmod, 7, 2) == (3, 1)
        assert "own" in await own.begin(lambda: threading.current_thread().name)
    own.close()
    go_on.set()
    await asyncio.gather(*busy)
