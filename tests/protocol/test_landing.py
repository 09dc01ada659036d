"""From the network to the disk: nothing is lost, blamed on the wrong side, or written late."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from weft.checkpoints.errors import BadChunk, DiskFull
from weft.protocol.landing import Desk, SenderFault


class Disk:
    """A staging that records what is written, and can be stopped or fail."""

    def __init__(self) -> None:
        self.written: dict[int, bytes] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        self.failing: dict[int, Exception] = {}

    def write_chunk(self, index: int, data: memoryview) -> None:
        self.go_on.wait(10)
        if index in self.failing:
            raise self.failing[index]
        self.written[index] = bytes(data)


def desk_of(disk: Disk, stored: Callable[[list[int]], None] = lambda indices: None) -> Desk:
    return Desk(cast(Any, disk), stored)


async def put(desk: Desk, index: int) -> None:
    buffer = desk.buffer()
    buffer[:4] = index.to_bytes(4, "big")
    await desk.put((index, memoryview(buffer)[:4]))


def expected(count: int) -> dict[int, bytes]:
    return {index: index.to_bytes(4, "big") for index in range(count)}


async def test_everything_is_written_and_told_once() -> None:
    disk, told = Disk(), list[int]()
    desk = desk_of(disk, told.extend)
    for index in range(50):
        await put(desk, index)
    await desk.settle()
    assert disk.written == expected(50)
    assert told == list(range(50))


async def test_a_slow_disk_holds_the_reader_back() -> None:
    disk = Disk()
    disk.go_on.clear()
    desk = desk_of(disk)

    async def read() -> None:
        for index in range(50):
            await put(desk, index)

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.1)
    assert not reading.done()
    assert len(desk._waiting) <= 4
    disk.go_on.set()
    await reading
    await desk.settle()
    assert disk.written == expected(50)


async def test_buffers_are_used_again() -> None:
    desk, seen = desk_of(Disk()), set[int]()
    for index in range(100):
        buffer = desk.buffer()
        seen.add(id(buffer))
        await desk.put((index, memoryview(buffer)[:4]))
    await desk.settle()
    assert len(seen) <= 12


async def test_a_wrong_chunk_is_the_senders_fault_and_the_others_are_kept() -> None:
    disk, told = Disk(), list[int]()
    disk.failing[2] = BadChunk("does not match")
    desk = desk_of(disk, told.extend)

    async def read() -> None:
        for index in range(4):
            await put(desk, index)
        await desk.settle()

    with pytest.raises(SenderFault, match="does not match") as caught:
        await read()
    await desk.settle()
    assert isinstance(caught.value.error, BadChunk)
    assert told == [0, 1, 3]


async def test_a_full_disk_is_ours() -> None:
    disk = Disk()
    disk.failing[0] = DiskFull("no room")
    desk = desk_of(disk)
    await put(desk, 0)
    with pytest.raises(DiskFull):
        await desk.settle()
    await desk.abandon()


async def test_nothing_is_written_after_it_was_abandoned() -> None:
    """The file is closed next: a thread that still wrote could hit another file's descriptor."""
    disk = Disk()
    disk.go_on.clear()
    desk = desk_of(disk)
    for index in range(3):
        await put(desk, index)
    leaving = asyncio.create_task(desk.abandon())
    await asyncio.sleep(0.1)
    assert not leaving.done()
    disk.go_on.set()
    await leaving
    written = dict(disk.written)
    await asyncio.sleep(0.1)
    assert disk.written == written
    assert set(written) == {0}
