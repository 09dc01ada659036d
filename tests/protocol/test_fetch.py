"""Fetching over real sockets: what is right arrives once, what is wrong never."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy import FaultProxy, Faults
from tests.support.repository import ROOT
from tests.support.wire import MIB, Enrolment, HoldingPeer, deposit, payload, serving, until
from weft.checkpoints.errors import DiskFull
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store
from weft.errors import Corrupt, Denied, NotFound, Refused, Stalled, Unavailable, WeftError
from weft.protocol.channel import ChannelPool, call, peer_stub
from weft.protocol.fetch import Holder, fetch_artifact, fetch_manifest
from weft.protocol.limits import PIECE_BYTES
from weft.protocol.pieces import encode, pieces_of
from weft.protocol.v1 import peer_pb2

CHUNKS = {"a": 2 * MIB, "b": MIB + 8, "c": 2 * MIB}
"""Six chunks, one of them of eight bytes."""


class Traffic:
    """Bytes by peer and direction."""

    def __init__(self) -> None:
        self.moved: Counter[tuple[str, str]] = Counter()

    def __call__(self, peer: str, direction: str, count: int) -> None:
        self.moved[peer, direction] += count

    def received(self, *peers: str) -> int:
        return sum(n for (p, d), n in self.moved.items() if d == "received" and p in peers)


def at(name: str, port: int) -> Holder:
    return Holder(name, f"127.0.0.1:{port}")


@pytest.fixture
def traffic() -> Traffic:
    return Traffic()


@pytest.fixture
async def pool(enrol: Enrolment, traffic: Traffic) -> AsyncIterator[ChannelPool]:
    pool = ChannelPool(enrol("receiver"), on_bytes=traffic)
    yield pool
    await pool.close()


async def test_every_byte_arrives(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    sizes = {"empty": 0, "tiny": 4, "exact": MIB, "over": MIB + 4, "big": 3 * MIB + 40}
    digest = deposit(held, sizes)
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        await fetch_artifact(fetched, digest, [at("a", port)], pool)
    assert payload(fetched, digest) == payload(held, digest)
    assert not any(verdict.fault for verdict in fetched.verify())


async def test_an_artifact_without_bytes(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, {})
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        await fetch_artifact(fetched, digest, [at("a", port)], pool)
    assert fetched.has(digest)


async def test_what_is_here_is_not_asked_for(held: Store, pool: ChannelPool) -> None:
    digest = deposit(held, CHUNKS)
    seen: list[Manifest] = []
    await fetch_artifact(held, digest, [at("nobody", 1)], pool, expect=seen.append)
    assert [manifest.digest for manifest in seen] == [digest]


async def test_what_is_not_expected_costs_no_chunk(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, CHUNKS)

    def refuse(manifest: Manifest) -> None:
        raise Refused("against another base")

    async with serving(enrol("a"), HoldingPeer(held)) as port:
        with pytest.raises(Refused, match=r"^against another base$"):
            await fetch_artifact(fetched, digest, [at("a", port)], pool, expect=refuse)
    assert traffic.received("a") < PIECE_BYTES
    assert list((fetched.root / "staging").iterdir()) == []


async def test_manifest_alone(
    enrol: Enrolment, held: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, CHUNKS)
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        manifest = await fetch_manifest(digest, [at("a", port)], pool)
    assert manifest == held.manifest(digest)
    assert traffic.received("a") < PIECE_BYTES


async def test_only_some_tensors(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, CHUNKS)
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        await fetch_artifact(fetched, digest, [at("a", port)], pool, only=["b"])
        assert not fetched.has(digest)
        assert MIB < traffic.received("a") < MIB + PIECE_BYTES
        await fetch_artifact(fetched, digest, [at("a", port)], pool)
    assert traffic.received("a") < sum(CHUNKS.values()) + PIECE_BYTES
    assert payload(fetched, digest) == payload(held, digest)


# -- holders that send what they should not ----------------------------------


class LyingPeer(HoldingPeer):
    """Sends the pieces of an honest answer, changed by a function."""

    def __init__(self, store: Store, lie: Callable[[list[bytes]], Iterator[bytes]]) -> None:
        super().__init__(store)
        self._store = store
        self._lie = lie

    async def Fetch(  # noqa: N802
        self, request: peer_pb2.FetchRequest, context: Any
    ) -> AsyncIterator[bytes]:
        indices = [i for one in request.ranges for i in range(one.start, one.stop)]
        honest = [
            encode(index, piece)
            for index in indices
            for piece in pieces_of(self._store.read_chunk(request.digest, index))
        ]
        for message in self._lie(honest):
            yield message


def flipped_bit(honest: list[bytes]) -> Iterator[bytes]:
    changed = bytearray(honest[5])
    changed[-1] ^= 1
    yield from [*honest[:5], bytes(changed), *honest[6:]]


def wrong_order(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest[4:8], *honest[:4], *honest[8:]]


def duplicate(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest[:4], *honest[:4], *honest[4:]]


def gap(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest[:4], *honest[8:]]


def over_long(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest[:3], encode(0, bytes(PIECE_BYTES + 1)), *honest[4:]]


def beyond_the_end(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest, encode(10**6, b"more")]


def truncated(honest: list[bytes]) -> Iterator[bytes]:
    yield from honest[:3]


def nothing(honest: list[bytes]) -> Iterator[bytes]:
    yield from ()


def empty_piece(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest[:4], encode(1, b""), *honest[4:]]


def drops(honest: list[bytes]) -> Iterator[bytes]:
    yield from (encode(0, b"x") for _ in range(MIB))


def garbage(honest: list[bytes]) -> Iterator[bytes]:
    yield from [*honest[:4], b"\xff\xff\xff", *honest[4:]]


LIES: dict[Callable[[list[bytes]], Iterator[bytes]], type[WeftError]] = {
    flipped_bit: Corrupt,
    wrong_order: Corrupt,
    duplicate: Corrupt,
    gap: Corrupt,
    over_long: Corrupt,
    beyond_the_end: Corrupt,
    truncated: Unavailable,
    nothing: Unavailable,
    empty_piece: Corrupt,
    drops: Corrupt,
    garbage: Corrupt,
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_a_lie_is_never_stored(
    lie: Callable[[list[bytes]], Iterator[bytes]],
    enrol: Enrolment,
    held: Store,
    fetched: Store,
    pool: ChannelPool,
) -> None:
    digest = deposit(held, CHUNKS)
    async with serving(enrol("liar"), LyingPeer(held, lie)) as port:
        if lie is beyond_the_end:  # all of it had come, and right: there is nothing to refuse
            await fetch_artifact(fetched, digest, [at("liar", port)], pool, progress_s=1.5)
            return
        with pytest.raises(LIES[lie], match="liar"):
            await fetch_artifact(fetched, digest, [at("liar", port)], pool, progress_s=1.5)
    assert not fetched.has(digest)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_an_honest_holder_takes_over(
    lie: Callable[[list[bytes]], Iterator[bytes]],
    enrol: Enrolment,
    held: Store,
    fetched: Store,
    pool: ChannelPool,
) -> None:
    digest = deposit(held, CHUNKS)
    async with (
        serving(enrol("liar"), LyingPeer(held, lie)) as wrong,
        serving(enrol("b"), HoldingPeer(held)) as right,
    ):
        await fetch_artifact(fetched, digest, [at("liar", wrong), at("b", right)], pool)
    assert payload(fetched, digest) == payload(held, digest)


class OtherManifest(HoldingPeer):
    """Answers with other bytes than the manifest of the digest."""

    def __init__(self, store: Store, pieces: Callable[[], Iterator[bytes]]) -> None:
        super().__init__(store)
        self._pieces = pieces

    async def Manifest(  # noqa: N802
        self, request: peer_pb2.ManifestRequest, context: Any
    ) -> AsyncIterator[peer_pb2.ManifestPiece]:
        for piece in self._pieces():
            yield peer_pb2.ManifestPiece(data=piece)


async def test_a_manifest_must_match_its_digest(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest, other = deposit(held, CHUNKS), deposit(held, CHUNKS, seed=1)
    liar = OtherManifest(held, lambda: iter([held.manifest(other).to_bytes()]))
    async with serving(enrol("liar"), liar) as port:
        with pytest.raises(Corrupt, match=f"liar sends a manifest of digest {other[:12]}"):
            await fetch_artifact(fetched, digest, [at("liar", port)], pool)


async def test_a_manifest_must_end(
    enrol: Enrolment,
    held: Store,
    fetched: Store,
    pool: ChannelPool,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weft.protocol.fetch.MANIFEST_BYTES", 4 * MIB)
    endless = OtherManifest(held, lambda: iter(lambda: bytes(MIB), b""))
    async with serving(enrol("liar"), endless) as port:
        with pytest.raises(Corrupt, match="does not end"):
            await fetch_artifact(fetched, "ab" * 32, [at("liar", port)], pool)
    assert traffic.received("liar") < 8 * MIB


async def test_rot_on_the_holders_disk_is_seen_there(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, CHUNKS)
    path = held.payload_path(digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-MIB, os.SEEK_END)
        file.write(b"rot")
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        with pytest.raises(Corrupt, match="changed on the disk"):
            await fetch_artifact(fetched, digest, [at("a", port)], pool)
    assert not fetched.has(digest)


# -- holders that refuse, and this side's own troubles -----------------------


async def test_unknown_artifact(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        with pytest.raises(NotFound, match=r"a: a .*no artifact"):
            await fetch_artifact(fetched, "ab" * 32, [at("a", port)], pool)


async def test_who_may_not_read_is_denied(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, CHUNKS)
    asked: list[tuple[str, str]] = []

    def may_read(identity: Any, digest: str) -> bool:
        asked.append((identity.name, digest))
        return False

    async with serving(enrol("a"), HoldingPeer(held, may_read)) as port:
        with pytest.raises(Denied, match="receiver may not read"):
            await fetch_artifact(fetched, digest, [at("a", port)], pool)
    assert asked == [("receiver", digest)]


async def test_nobody_to_ask(fetched: Store, pool: ChannelPool) -> None:
    with pytest.raises(Unavailable, match="nobody is known to hold it"):
        await fetch_artifact(fetched, "ab" * 32, [], pool)


async def test_unreachable_holder_is_given_up(fetched: Store, pool: ChannelPool) -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match="gone"):
        await fetch_artifact(fetched, "ab" * 32, [at("gone", 1)], pool, progress_s=0.5)
    assert 0.5 <= time.monotonic() - start < 2.0


async def test_a_full_disk_is_not_the_holders_fault(
    enrol: Enrolment,
    held: Store,
    fetched: Store,
    pool: ChannelPool,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = deposit(held, CHUNKS)

    def full(staging: Staging, index: int, data: bytes) -> None:
        raise DiskFull("no room here")

    monkeypatch.setattr(Staging, "write_chunk", full)
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        with pytest.raises(DiskFull, match=r"^no room here$"):
            await fetch_artifact(fetched, digest, [at("a", port)], pool)
    assert traffic.received("a") < 2 * sum(CHUNKS.values())


async def test_cancelled_fetch_goes_on_later(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, CHUNKS)
    total = sum(CHUNKS.values())
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(rate_bytes_s=4 * MIB)) as proxy,
    ):
        before = asyncio.all_tasks()
        fetching = asyncio.create_task(fetch_artifact(fetched, digest, [at("a", proxy.port)], pool))
        await until(lambda: traffic.received("a") > 2 * MIB)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await until(lambda: asyncio.all_tasks() - before == {*_pumps(before)}, timeout_s=2)
        await fetch_artifact(Store(fetched.root), digest, [at("a", port)], pool)
    assert payload(fetched, digest) == payload(held, digest)
    assert traffic.received("a") <= total + 2 * MIB


def _pumps(before: set["asyncio.Task[Any]"]) -> set["asyncio.Task[Any]"]:
    """The proxy's and gRPC's own tasks, which go on."""
    ours = ("fetch", "landing", "threads", "transfer", "channel")
    return {
        task
        for task in asyncio.all_tasks() - before
        if not any(f"protocol/{name}.py" in repr(task) for name in ours)
    }


async def test_two_fetches_of_one_artifact_agree(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, CHUNKS)
    async with serving(enrol("a"), HoldingPeer(held)) as port:
        await asyncio.gather(
            *(fetch_artifact(fetched, digest, [at("a", port)], pool) for _ in range(3))
        )
    assert payload(fetched, digest) == payload(held, digest)


# -- the network -------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("cut", range(6))
async def test_a_cut_costs_at_most_one_chunk(
    cut: int,
    reset: bool,
    enrol: Enrolment,
    held: Store,
    fetched: Store,
    pool: ChannelPool,
    traffic: Traffic,
) -> None:
    digest = deposit(held, {"a": 6 * MIB})
    at_byte = cut * MIB + 400_000
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(cut_after=[at_byte], reset=reset)) as proxy,
    ):
        await fetch_artifact(fetched, digest, [at("a", proxy.port)], pool)
        assert proxy.connections == 2
    assert payload(fetched, digest) == payload(held, digest)
    # Counted as it reaches this process: what a cut throws away in kernels never came.
    assert traffic.received("a") - 6 * MIB < MIB


async def test_many_cuts(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, {"a": 6 * MIB})
    cuts = [MIB + 200_000] * 5
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(cut_after=cuts)) as proxy,
    ):
        await fetch_artifact(fetched, digest, [at("a", proxy.port)], pool)
        assert proxy.connections == 6
    assert payload(fetched, digest) == payload(held, digest)
    assert traffic.received("a") - 6 * MIB < len(cuts) * MIB


async def test_a_flipped_bit_on_the_wire_is_survived(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, CHUNKS)
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(flip_at=MIB)) as proxy,
        serving(enrol("b"), HoldingPeer(held)) as other,
    ):
        await fetch_artifact(fetched, digest, [at("a", proxy.port), at("b", other)], pool)
    assert payload(fetched, digest) == payload(held, digest)


async def test_holder_that_goes_away_is_replaced(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, CHUNKS)
    total = sum(CHUNKS.values())
    async with serving(enrol("b"), HoldingPeer(held)) as other:
        async with serving(enrol("a"), HoldingPeer(held)) as port:
            proxy = FaultProxy(port, Faults(cut_after=[2 * MIB], rate_bytes_s=20 * MIB))
            async with proxy:
                fetching = asyncio.create_task(
                    fetch_artifact(fetched, digest, [at("a", proxy.port), at("b", other)], pool)
                )
                await until(lambda: proxy.received >= 2 * MIB)
        await fetching
    assert payload(fetched, digest) == payload(held, digest)
    assert traffic.received("a") > MIB
    assert traffic.received("a", "b") < total + 2 * MIB


async def test_a_slow_transfer_that_moves_never_times_out(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    """Five times as long as the progress deadline; a chunk alone takes longer than it."""
    digest = deposit(held, {"a": 2 * MIB})
    progress_s = 0.8
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(rate_bytes_s=MIB / (2 * progress_s))) as proxy,
    ):
        start = time.monotonic()
        holders = [at("a", proxy.port)]
        await fetch_artifact(fetched, digest, holders, pool, progress_s=progress_s)
    assert time.monotonic() - start > 3.5 * progress_s
    assert proxy.connections == 1


@pytest.mark.parametrize("way", ["to_client", "to_server"])
async def test_a_black_hole_is_noticed_in_time(
    way: Any, enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, {"a": 16 * MIB})
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(rate_bytes_s=8 * MIB)) as proxy,
    ):
        holders = [at("a", proxy.port)]
        fetching = asyncio.create_task(
            fetch_artifact(fetched, digest, holders, pool, progress_s=0.6)
        )
        await until(lambda: proxy.received > MIB)
        proxy.faults.black_hole = way
        start = time.monotonic()
        with pytest.raises(Stalled, match=r"stood still for 0.6 s"):
            await fetching
    # What was on its way already still counts as progress where only the way there is lost.
    assert 0.5 < time.monotonic() - start < 2.5


async def test_a_stopped_process_is_noticed_in_time(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, traffic: Traffic
) -> None:
    digest = deposit(held, {"a": 40 * MIB})
    command = [sys.executable, "-m", "tests.support.holder"]
    folders = [str(enrol("a").folder), str(held.root)]
    holder = await asyncio.create_subprocess_exec(
        *command, *folders, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        if holder.stdout is None:
            raise RuntimeError("the holder has no standard output")
        port = int(await asyncio.wait_for(holder.stdout.readline(), 30))
        fetching = asyncio.create_task(
            fetch_artifact(fetched, digest, [at("a", port)], pool, progress_s=1.0)
        )
        await until(lambda: traffic.received("a") > 2 * MIB)
        os.kill(holder.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(Stalled, match="stood still for 1 s"):
            await fetching
        assert time.monotonic() - start < 1.5
        again = time.monotonic()
        with pytest.raises(Stalled):
            await fetch_artifact(fetched, digest, [at("a", port)], pool, progress_s=1.0)
        assert time.monotonic() - again < 1.5
        os.kill(holder.pid, signal.SIGCONT)
        await fetch_artifact(fetched, digest, [at("a", port)], pool)
    finally:
        holder.kill()
        await holder.wait()
    assert fetched.has(digest)


async def test_control_does_not_wait_behind_bulk(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool
) -> None:
    digest = deposit(held, {"a": 4 * MIB})
    async with (
        serving(enrol("a"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(rate_bytes_s=2 * MIB)) as proxy,
    ):
        fetching = asyncio.create_task(fetch_artifact(fetched, digest, [at("a", proxy.port)], pool))
        await until(lambda: proxy.received > MIB)
        stub = peer_stub(pool.to(f"127.0.0.1:{proxy.port}", "a"))
        start = time.monotonic()
        for _ in range(5):
            await call(stub.Status, peer_pb2.StatusRequest(), timeout_s=1)
        assert time.monotonic() - start < 0.5
        assert not fetching.done()
        assert proxy.connections == 2
        await fetching


async def test_errors_name_every_holder(
    enrol: Enrolment, held: Store, fetched: Store, pool: ChannelPool, tmp_path: Path
) -> None:
    empty = Store(tmp_path / "empty")
    digest = deposit(held, CHUNKS)
    async with (
        serving(enrol("liar"), LyingPeer(held, gap)) as wrong,
        serving(enrol("b"), HoldingPeer(empty)) as ignorant,
    ):
        holders = [at("liar", wrong), at("b", ignorant)]
        with pytest.raises(WeftError) as caught:
            await fetch_artifact(fetched, digest, holders, pool)
    assert "liar sends chunk 2; chunk 1 was to come" in str(caught.value)
    assert isinstance(caught.value, Corrupt)
