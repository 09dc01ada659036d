"""From pieces to chunks, without sockets or disks.

Takes what one answer sends, in the order in which it was asked for, and refuses
everything else before it is kept. Whether a whole chunk is the right one is for
its digest to say. Stable within a protocol version.
"""

from collections.abc import Callable, Iterator

from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.manifest import ChunkRef
from weft.protocol.errors import CorruptTransfer, TransferFailed
from weft.protocol.limits import LEAST_PIECE_BYTES


class Chunks:
    """Puts the pieces of one answer together, and refuses what was not asked for.

    Args:
        expected: the chunks that were asked for, in order.
        source: who sends, for errors.
        buffers: gives a buffer of at least a chunk's length for the next chunk.
    """

    def __init__(
        self,
        expected: Iterator[ChunkRef],
        source: str,
        buffers: Callable[[], bytearray] = lambda: bytearray(CHUNK_BYTES),
    ) -> None:
        self._expected = expected
        self._source = source
        self._buffers = buffers
        self._current = next(expected, None)
        self._buffer: memoryview | None = None
        self._held = 0

    def take(self, index: int, data: bytes | memoryview) -> tuple[int, memoryview] | None:
        """Take the next piece; the chunk's index and bytes where it completes one.

        The bytes are a view of a buffer that `buffers` gave: it is the caller's again.

        Raises:
            CorruptTransfer: a piece of another chunk, an empty or a tiny one, or
                more bytes than the chunk has.
        """
        current = self._require_next(index)
        held = self._held + len(data)
        if held > current.length:
            raise CorruptTransfer(
                f"{self._source} sends {held} bytes of chunk {index}; it has {current.length}"
            )
        if held < current.length and len(data) < LEAST_PIECE_BYTES:
            raise CorruptTransfer(
                f"{self._source} sends chunk {index} in pieces of {len(data)} bytes; "
                f"expected at least {LEAST_PIECE_BYTES}"
            )
        if self._buffer is None:
            self._buffer = memoryview(self._buffers())
        self._buffer[self._held : held] = data
        self._held = held
        return self._whole(current) if held == current.length else None

    def _require_next(self, index: int) -> ChunkRef:
        if self._current is None:
            raise CorruptTransfer(f"{self._source} sends chunk {index}; all asked for had come")
        if index != self._current.index:
            raise CorruptTransfer(
                f"{self._source} sends chunk {index}; chunk {self._current.index} was to come"
            )
        return self._current

    def _whole(self, chunk: ChunkRef) -> tuple[int, memoryview]:
        view = (self._buffer or memoryview(b""))[: chunk.length]
        self._buffer, self._held = None, 0
        self._current = next(self._expected, None)
        return chunk.index, view

    def require_end(self) -> None:
        """The answer is over; all that was asked for must have come.

        Raises:
            TransferFailed: it ended early.
        """
        if self._current is not None:
            raise TransferFailed(
                f"{self._source} ended after {self._held} of {self._current.length} bytes of "
                f"chunk {self._current.index}, with more asked for"
            )
