"""Waiting on the board: at once, at a change, or not at all."""

import asyncio

from weft.node.board import Board


async def test_what_is_there_is_found_at_once() -> None:
    assert await Board().wait_for(lambda: 7, 0.0) == 7


async def test_a_change_wakes_every_waiter() -> None:
    board, found = Board(), dict[str, int]()
    waiters = [asyncio.create_task(board.wait_for(lambda: found.get("x"), 10)) for _ in range(5)]
    await asyncio.sleep(0)
    board.notify()  # nothing there yet: they wait on
    await asyncio.sleep(0)
    found["x"] = 3
    board.notify()
    assert await asyncio.gather(*waiters) == [3] * 5


async def test_nothing_within_the_time() -> None:
    started = asyncio.get_running_loop().time()
    nothing: dict[str, int] = {}
    assert await Board().wait_for(lambda: nothing.get("x"), 0.05) is None
    assert asyncio.get_running_loop().time() - started < 5
