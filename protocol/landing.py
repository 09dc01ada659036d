"""From the network to the disk: chunks are verified and written beside the event loop.

Reading goes on while a batch is hashed and written; where the disk is slower, the
reader waits, and with it the sender. Internal: `fetch` and `upload` use it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.staging import Staging
from weft.errors import Corrupt, WeftError
from weft.protocol.threads import Threads, ended

_BATCH: Final = 4
"""Most whole chunks that wait for the disk while others are written."""

Whole = tuple[int, memoryview]
"""A chunk's index and its bytes, in one of the desk's buffers."""


class SenderFault(Exception):
    """What the other side did wrong, apart from what goes wrong on this one."""

    def __init__(self, error: WeftError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class Desk:
    """Takes whole chunks to the disk in a thread, a batch at a time, while others arrive.

    Args:
        staging: where they are verified and written.
        stored: told the indices of what is stored.
    """

    staging: Staging
    stored: Callable[[list[int]], None]
    _waiting: list[Whole] = field(default_factory=list)
    _writing: "asyncio.Future[_Written] | None" = None
    _spare: list[bytearray] = field(default_factory=list)
    _threads: Threads = field(default_factory=lambda: Threads(1, "weft-landing"))

    def buffer(self) -> bytearray:
        """A buffer for the next chunk: one that was written, or a new one."""
        return self._spare.pop() if self._spare else bytearray(CHUNK_BYTES)

    async def put(self, whole: Whole) -> None:
        """Hand over a chunk; waits where the disk is slower than the network."""
        self._waiting.append(whole)
        if self._writing is None or self._writing.done() or len(self._waiting) >= _BATCH:
            await self._book()
            self._begin()

    async def settle(self) -> None:
        """Wait until everything handed over is stored."""
        await self._book()
        self._begin()
        await self._book()

    async def abandon(self) -> None:
        """Wait until nothing is being written; what became of it no longer counts."""
        self._waiting.clear()
        self._threads.close()
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await ended(writing)
            writing.exception()

    def _begin(self) -> None:
        """Start to write what waits."""
        if self._waiting:
            batch, self._waiting = self._waiting, []
            self._writing = self._threads.begin(_write, self.staging, batch)

    async def _book(self) -> None:
        """Wait for the batch under way, and tell what is stored of it.

        Raises:
            SenderFault: one of its chunks does not match its digest.
            WeftError: of this side's disk.
        """
        if self._writing is None:
            return
        await ended(self._writing)
        writing, self._writing = self._writing, None
        written = writing.result()
        self.stored(written.indices)
        self._spare += written.buffers
        if written.error is not None:
            raise SenderFault(written.error)


@dataclass(frozen=True, slots=True)
class _Written:
    """Which chunks of a batch are stored, its buffers, and why one is not stored."""

    indices: list[int]
    buffers: list[bytearray]
    error: WeftError | None = None


def _write(staging: Staging, batch: Sequence[Whole]) -> _Written:
    """Verify and write a batch. Blocks.

    Raises:
        WeftError: what is this side's own (a full disk).
    """
    stored: list[int] = []
    buffers = [data.obj for _, data in batch if isinstance(data.obj, bytearray)]
    error: WeftError | None = None
    for index, data in batch:
        try:
            staging.write_chunk(index, data)
            stored.append(index)
        except Corrupt as wrong:
            error = wrong
    return _Written(stored, buffers, error)
