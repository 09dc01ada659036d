"""Serving: which ranges may be asked for, how chunks are cut and read ahead."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import MIB, Enrolment, HoldingPeer, deposit, serving
from weft.checkpoints.store import Store
from weft.errors import NotFound
from weft.protocol.channel import ChannelPool, peer_stub, stream
from weft.protocol.errors import BadMessage
from weft.protocol.limits import PIECE_BYTES, RANGES
from weft.protocol.serve_artifacts import checked_ranges, read_ahead
from weft.protocol.threads import Threads
from weft.protocol.v1.peer_pb2 import ChunkRange, FetchRequest, ManifestRequest


def ranges(*pairs: tuple[int, int]) -> list[ChunkRange]:
    return [ChunkRange(start=start, stop=stop) for start, stop in pairs]


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 0)],
        [(3, 2)],
        [(0, 11)],
        [(10, 11)],
        [(0, 2), (1, 3)],
        [(4, 5), (0, 1)],
        [(0, 1), (0, 1)],
        [(2**63, 2**64 - 1)],
    ],
)
def test_ranges_that_make_no_sense_are_refused(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(BadMessage, match="ascending, disjoint ranges within 10"):
        checked_ranges(ranges(*pairs), 10)


def test_ranges_are_counted() -> None:
    many = [(2 * n, 2 * n + 1) for n in range(RANGES + 1)]
    with pytest.raises(BadMessage, match="at most 1024"):
        checked_ranges(ranges(*many), 10**6)
    assert checked_ranges(ranges(*many[:-1]), 10**6) == many[:-1]


@given(st.sets(st.integers(0, 50)))
def test_good_ranges_come_back_as_they_are(edges: set[int]) -> None:
    found = sorted(edges)
    pairs = list(zip(found[::2], found[1::2], strict=False))
    assert checked_ranges(ranges(*pairs), 51) == pairs


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, "test")
    yield threads
    threads.close()


async def test_reading_ahead_gives_every_chunk_once_and_in_order(
    held: Store, threads: Threads
) -> None:
    digest = deposit(held, {"a": 5 * MIB + 4, "b": 4, "c": 0})
    with held.payload(digest) as payload:
        found = [(i, bytes(data)) async for i, data in read_ahead(payload, iter(range(7)), threads)]
    assert found == [(index, held.read_chunk(digest, index)) for index in range(7)]


async def test_reading_ahead_is_left_early(held: Store, threads: Threads) -> None:
    digest = deposit(held, {"a": 5 * MIB})
    before = asyncio.all_tasks()
    with held.payload(digest) as payload:
        chunks = read_ahead(payload, iter(range(5)), threads)
        await anext(chunks)
        await chunks.aclose()
    assert asyncio.all_tasks() == before


@pytest.fixture
async def pool(enrol: Enrolment) -> AsyncIterator[ChannelPool]:
    pool = ChannelPool(enrol("caller"))
    yield pool
    await pool.close()


async def test_chunks_travel_in_pieces(enrol: Enrolment, held: Store, pool: ChannelPool) -> None:
    digest = deposit(held, {"a": MIB + 8})
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        stub: Any = peer_stub(pool.to(f"127.0.0.1:{port}", "a"))
        request = FetchRequest(digest=digest, ranges=ranges((0, 2)))
        found = [(one.index, len(one.data)) async for one in stream(stub.Fetch, request)]
    assert found == [(0, PIECE_BYTES)] * 4 + [(1, 8)]


async def test_large_manifests_travel_in_pieces(
    enrol: Enrolment, held: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, {f"a.tensor.with.a.long.name.{n:05}": 4 for n in range(3000)})
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        stub: Any = peer_stub(pool.to(f"127.0.0.1:{port}", "a"))
        pieces = [one.data async for one in stream(stub.Manifest, ManifestRequest(digest=digest))]
    assert len(pieces) > 1
    assert max(map(len, pieces)) == PIECE_BYTES
    assert b"".join(pieces) == held.manifest_bytes(digest)


@pytest.mark.parametrize("digest", ["", "x", "AB" * 32, "../" * 21 + "a"])
async def test_what_is_no_digest_is_refused(
    digest: str, enrol: Enrolment, held: Store, pool: ChannelPool
) -> None:
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        stub: Any = peer_stub(pool.to(f"127.0.0.1:{port}", "a"))
        for method, request in (
            (stub.Manifest, ManifestRequest(digest=digest)),
            (stub.Fetch, FetchRequest(digest=digest)),
        ):
            with pytest.raises(Exception, match="64 hexadecimal digits") as caught:
                await anext(stream(method, request))
            assert type(caught.value).__name__ == "InvalidInput"


async def test_what_is_not_here_is_not_found(
    enrol: Enrolment, held: Store, pool: ChannelPool
) -> None:
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        stub: Any = peer_stub(pool.to(f"127.0.0.1:{port}", "a"))
        with pytest.raises(NotFound) as caught:
            await anext(stream(stub.Manifest, ManifestRequest(digest="ab" * 32)))
    assert str(held.root) not in str(caught.value)
