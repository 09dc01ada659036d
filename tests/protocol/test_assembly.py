"""Pieces into chunks: what was asked for, in its order, and nothing else."""

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.support.wire import manifest_of
from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.manifest import ChunkRef
from weft.protocol.assembly import Chunks
from weft.protocol.errors import CorruptTransfer, TransferFailed
from weft.protocol.limits import LEAST_PIECE_BYTES, PIECE_BYTES

MANIFEST = manifest_of({"a": 2 * CHUNK_BYTES + 4, "b": 8})


def expected() -> Iterator[ChunkRef]:
    return map(MANIFEST.chunk, range(4))


def test_pieces_become_chunks() -> None:
    chunks = Chunks(expected(), "a")
    whole: list[tuple[int, bytes]] = []
    for index in range(4):
        length = MANIFEST.chunk(index).length
        for start in range(0, length, PIECE_BYTES):
            piece = bytes([index]) * min(PIECE_BYTES, length - start)
            if (one := chunks.take(index, piece)) is not None:
                whole.append((one[0], bytes(one[1])))
    lengths = [CHUNK_BYTES, CHUNK_BYTES, 4, 8]
    assert whole == [(i, bytes([i]) * n) for i, n in enumerate(lengths)]
    chunks.require_end()


@pytest.mark.parametrize(
    ("pieces", "complaint"),
    [
        ([(1, b"x")], "chunk 1; chunk 0 was to come"),
        ([(0, bytes(CHUNK_BYTES + 1))], "1048577 bytes of chunk 0; it has 1048576"),
        ([(0, bytes(PIECE_BYTES)), (0, bytes(CHUNK_BYTES))], "1310720 bytes of chunk 0"),
        ([(0, b"")], "pieces of 0 bytes"),
        ([(0, bytes(LEAST_PIECE_BYTES - 1))], "pieces of 65535 bytes; expected at least 65536"),
        ([(0, bytes(CHUNK_BYTES)), (0, b"x")], "chunk 0; chunk 1 was to come"),
        ([(0, bytes(PIECE_BYTES)), (1, bytes(4))], "chunk 1; chunk 0 was to come"),
    ],
)
def test_what_was_not_asked_for_is_refused(pieces: list[tuple[int, bytes]], complaint: str) -> None:
    chunks = Chunks(expected(), "liar")
    for index, data in pieces[:-1]:
        chunks.take(index, data)
    with pytest.raises(CorruptTransfer, match=f"^liar sends .*{complaint}"):
        chunks.take(*pieces[-1])


def test_more_than_was_asked_for_is_refused() -> None:
    chunks = Chunks(islice(expected(), 2, 3), "liar")
    chunks.take(2, bytes(4))
    with pytest.raises(CorruptTransfer, match="all asked for had come"):
        chunks.take(3, bytes(8))


def test_an_early_end_is_told() -> None:
    chunks = Chunks(expected(), "a")
    chunks.take(0, bytes(PIECE_BYTES))
    with pytest.raises(TransferFailed, match="after 262144 of 1048576 bytes of chunk 0"):
        chunks.require_end()


def test_buffers_come_from_the_caller() -> None:
    buffer = bytearray(CHUNK_BYTES)
    chunks = Chunks(islice(expected(), 2, 3), "a", lambda: buffer)
    whole = chunks.take(2, b"wxyz")
    assert whole is not None
    assert whole[1].obj is buffer
    assert bytes(whole[1]) == b"wxyz"
