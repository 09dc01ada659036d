"""Chunks are cut at the same places however the bytes arrive."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from weft.checkpoints.digest import (
    CHUNK_BYTES,
    ChunkHasher,
    chunk_count,
    chunk_digest,
    digest_of,
    is_digest,
    require_digest,
)
from weft.checkpoints.errors import BadDigest

DATA = bytes(range(256)) * (CHUNK_BYTES // 256) * 2 + b"the rest"


def test_blake3_of_nothing() -> None:
    known = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert digest_of(b"") == known
    assert chunk_digest(b"").hex() == known


@given(st.lists(st.integers(1, 2 * CHUNK_BYTES), max_size=6), st.integers(0, len(DATA)))
def test_parts_do_not_matter(lengths: list[int], size: int) -> None:
    data, hasher, cursor = DATA[:size], ChunkHasher(), 0
    for length in [*lengths, size]:
        hasher.update(memoryview(data)[cursor : cursor + length])
        cursor += length
    cuts = [data[start : start + CHUNK_BYTES] for start in range(0, size, CHUNK_BYTES)]
    assert hasher.digests() == tuple(blake3(cut).digest() for cut in cuts)
    assert hasher.size_bytes == size
    assert len(cuts) == chunk_count(size)


@pytest.mark.parametrize(
    ("size", "chunks"), [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2)]
)
def test_chunk_count_by_hand(size: int, chunks: int) -> None:
    assert chunk_count(size) == chunks


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61])
def test_what_is_no_digest(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(BadDigest, match="64 hexadecimal digits"):
        require_digest(text)


def test_what_is_a_digest() -> None:
    assert require_digest(digest_of(b"x")) == digest_of(b"x")
