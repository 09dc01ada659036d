"""What a served stream answers: announced, sent, taken once, and read while it works."""

import asyncio
import contextlib
import errno
import gc
import json
import random
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest
from safetensors.torch import save_file

from tests.node.continual.serving import Served, Silent, kept, served
from tests.node.continual.streams import begun, newest, save, tuned
from tests.support.wire import Enrolment, deposit, until
from weft.checkpoints.artifacts import put_delta, put_model, put_tensors
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.errors import DiskFull
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.store import Store
from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
    WeftError,
)
from weft.node.continual import keeper as keeper_module
from weft.node.continual.daemon import StreamServerConfig, serve
from weft.node.continual.keeper import Keeper
from weft.node.continual.metrics import StreamMetrics
from weft.node.continual.records import Generation, Status
from weft.node.continual.spec import Keep
from weft.node.continual.stream import Stream
from weft.protocol.channel import ChannelPool, call, send, stream
from weft.protocol.errors import BadCredentials
from weft.protocol.pieces import pieces_of
from weft.protocol.push import Patience as Trying
from weft.protocol.push import Push, Target, settled
from weft.protocol.serve_artifacts import Source
from weft.protocol.sources import source_of
from weft.protocol.v1 import continual_pb2 as pb
from weft.protocol.v1.peer_pb2 import Chunk, ChunkRange


@pytest.fixture
def enrol(tmp_path: Path) -> Enrolment:
    return Enrolment(tmp_path / "federation")


async def comes(condition: Callable[[], bool]) -> None:
    """Wait for it, also on a machine that is busy."""
    await until(condition, 30)


def offer(**fields: Any) -> pb.Offer:
    return pb.Offer(**{"name": "c", "weight": 1.0, **fields})


async def pushed(at: Served, path: Path, **fields: Any) -> pb.CommitReply:
    with source_of(path) as source:
        return await Push(source, offer(name=path.name, **fields), at.target).run()


async def announced(at: Served, source: Source, told: pb.Offer | None = None) -> pb.BeginReply:
    async def messages() -> AsyncIterator[pb.BeginRequest]:
        yield pb.BeginRequest(offer=told or offer())
        for piece in pieces_of(source.manifest.to_bytes()):
            yield pb.BeginRequest(manifest_piece=bytes(piece))

    reply: pb.BeginReply = await send(at.stub.Begin, messages())
    return reply


async def uploaded(
    at: Served, source: Source, indices: Sequence[int], *, spoil: bool = False
) -> pb.UploadReply:
    async def messages() -> AsyncIterator[pb.UploadRequest]:
        ranges = [ChunkRange(start=index, stop=index + 1) for index in indices]
        yield pb.UploadRequest(head=pb.UploadHead(digest=source.manifest.digest, ranges=ranges))
        for index in indices:
            chunk = source.manifest.chunk(index)
            data = bytearray(chunk.length)
            source.fill(chunk.name, memoryview(data), chunk.offset_in_tensor)
            if spoil:
                data[0] ^= 1
            yield pb.UploadRequest(chunk=Chunk(index=index, data=bytes(data)))

    reply: pb.UploadReply = await send(at.stub.Upload, messages())
    return reply


async def committed(at: Served, source: Source, wait_s: float = 10.0, **fields: Any) -> Any:
    request = pb.CommitRequest(digest=source.manifest.digest, offer=offer(**fields), wait_s=wait_s)
    return await call(at.stub.Commit, request, timeout_s=20)


# -- every kind, and what comes of it -------------------------------------------


def delta_of(models: Path, name: str, into: Path, codec: str = "lossless") -> Path:
    with open_checkpoint(models / "base") as base, open_checkpoint(models / name) as finetuned:
        write_delta(into, finetuned, base, model_digest(base), codec)
    return into


def adapter(folder: Path) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    factors = {
        "base_model.model.layers.0.up.lora_A.weight": torch.randn(2, 5, generator=generator),
        "base_model.model.layers.0.up.lora_B.weight": torch.randn(6, 2, generator=generator),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def made(kind: str, models: Path, folder: Path) -> Path:
    if kind == "model":
        return models / "c1"
    return adapter(folder) if kind == "adapter" else delta_of(models, "c1", folder, kind)


@pytest.mark.parametrize("kind", ["model", "lossless", "int8", "adapter"])
async def test_every_kind_comes_to_what_the_same_added_here_comes_to(
    kind: str, home: Path, models: Path, enrol: Enrolment
) -> None:
    path = made(kind, models, home / "c")
    with Stream(begun(home / "here", models)) as here:
        here.offer(path)
        here.drain()
        expected = newest(here)
    async with served(begun(home / "there", models), enrol) as at:
        reply = await pushed(at, path)
        told = await settled(at.target, reply.contribution.seq, patience=Trying(), say=print)
        assert (told.status, told.generation, reply.known) == ("absorbed", 1, False)
        head = await call(at.stub.Head, pb.HeadRequest(), timeout_s=5)
        generation = at.keeper.view.newest
        assert (generation.state, generation.head) == expected
        assert head.generation.head == expected[1]
        assert Path(head.path) == (home / "there" / "head").resolve()
        assert at.uploads.store.digests() == []
        assert list(at.uploads.store.root.glob("adapter-*")) == []


async def test_from_a_head_by_its_generation(home: Path, models: Path, enrol: Enrolment) -> None:
    async with served(begun(home / "s", models, keep=Keep.LOSSLESS), enrol) as at:
        await pushed(at, models / "c1")
        await comes(lambda: at.keeper.view.newest.number == 1)
        reply = await pushed(at, models / "c2", started_from=1)
        assert reply.contribution.started_from == 1
        assert reply.contribution.form == "vector"
        other = await pushed(at, models / "c2")
        assert not other.known, "the same content against another head is another contribution"
        with pytest.raises(NotFound, match="no generation 9; there are 0 to"):
            await pushed(at, models / "c3", started_from=9)


# -- once, whatever is sent again -------------------------------------------------


async def test_the_same_again_is_the_stored_answer_and_sends_nothing(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    folder = begun(home / "s", models)
    async with served(folder, enrol) as at:
        first = await pushed(at, models / "c1")
        sent: list[int] = []
        with source_of(models / "c1") as source:
            again = await Push(source, offer(), at.target, on_sent=sent.append).run()
            straight = await committed(at, source)
        assert [again.known, straight.known, sent] == [True, True, []]
        assert again.contribution.seq == straight.contribution.seq == first.contribution.seq
    async with served(folder, enrol) as at:
        later = await pushed(at, models / "c1")
        assert (later.known, later.contribution.seq) == (True, 1)
        assert len(at.keeper.view.contributions) == 1


async def test_a_commit_that_nobody_waited_for_is_done_and_answered_later(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        with source_of(models / "c1") as source:
            begun_one = await announced(at, source)
            await uploaded(at, source, range(begun_one.missing_chunks))
            early = await committed(at, source, wait_s=0)
            assert not early.ready
            late = await committed(at, source)
        assert late.ready
        assert len(at.keeper.view.contributions) == 1


async def test_two_who_push_the_same_at_once_make_one_contribution(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        replies = await asyncio.gather(*(pushed(at, models / "c1") for _ in range(4)))
        assert {reply.contribution.seq for reply in replies} == {1}
        assert len(at.keeper.view.contributions) == 1


async def test_content_that_came_from_elsewhere_is_known(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        await at.keeper.ask(lambda stream: stream.offer(models / "c1"))
        first = await pushed(at, models / "c1")
        sent: list[int] = []
        with source_of(models / "c1") as source:
            second = await Push(source, offer(), at.target, on_sent=sent.append).run()
        assert [first.known, second.known, sent] == [True, True, []]


async def test_a_lineage_is_replaced_and_an_older_step_is_set_aside(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        await pushed(at, models / "c1", lineage="r", step=1000)
        late = await pushed(at, models / "c2", lineage="r", step=500)
        assert late.contribution.status == "set aside"
        assert "step 500" in late.contribution.reason
        newer = await pushed(at, models / "c3", lineage="r", step=2000)
        await settled(at.target, newer.contribution.seq, patience=Trying(), say=print)
        assert [each.status for each in at.keeper.view.contributions] == [
            Status.REPLACED,
            Status.SET_ASIDE,
            Status.ABSORBED,
        ]


async def test_what_is_set_aside_is_an_answer_and_stays_one(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    wrong = tuned(1)
    wrong["embed.weight"][0, 0] = float("nan")
    bad = save(home / "bad", wrong)
    async with served(begun(home / "s", models), enrol) as at:
        first, again = await pushed(at, bad), await pushed(at, bad)
        assert first.contribution.status == again.contribution.status == "set aside"
        assert [first.known, again.known] == [False, True]
        assert str(home) not in first.contribution.reason
        assert at.uploads.store.digests() == []
        once_more = await pushed(at, bad, again=True)
        assert (once_more.known, once_more.contribution.seq) == (False, 2)


async def test_messages_that_come_again_in_any_order_change_nothing(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    """Every message of two pushes up to three times, shuffled, also after a restart."""
    folder, delivered = begun(home / "s", models), 0
    with source_of(models / "c1") as one, source_of(models / "c2") as two:

        async def replay(at: Served, chance: random.Random) -> int:
            again = [
                partial(step, at, source)
                for source in (one, two)
                for step in (announced, sent_whole, committed, looked)
                for _ in range(chance.randint(1, 3))
            ]
            chance.shuffle(again)
            for each in again:
                with contextlib.suppress(Refused, NotFound):
                    await each()
            return len(again)

        async with served(folder, enrol) as at:
            await pushed(at, models / "c1")
            await pushed(at, models / "c2")
            await comes(lambda: at.keeper.view.newest.number == 2)
            before = at.keeper.view
            for seed in range(5):
                delivered += await replay(at, random.Random(seed))
            assert at.keeper.view.generations == before.generations
        async with served(folder, enrol) as at:
            for seed in range(5):
                delivered += await replay(at, random.Random(seed))
            assert at.keeper.view.contributions == before.contributions
            assert at.keeper.view.generations == before.generations
    sys.stdout.write(f"{delivered} messages delivered again\n")


async def sent_whole(at: Served, source: Source) -> None:
    await uploaded(at, source, range(source.manifest.chunk_count))


async def looked(at: Served, source: Source) -> None:
    await call(at.stub.Wait, pb.WaitRequest(seq=1), timeout_s=5)


ADAPTERS = {"no adapter": "{no json", "another kind": '{"peft_type": "PREFIX_TUNING"}'}


def hostile(kind: str, store: Store, models: Path) -> str:
    """An artifact whose chunks match their digests, and whose bytes mean nothing."""
    chance = random.Random(1)
    with open_checkpoint(models / "base") as base:
        against, schema = model_digest(base), base.schema
    if kind in ADAPTERS:
        factors = {"base_model.model.nothing.lora_A.weight": torch.zeros(2, 2)}
        return put_tensors(store, "adapter", factors, metadata={"adapter_config": ADAPTERS[kind]})
    with store.deposit(schema, kind="delta", against=against, codec=kind) as made:
        for spec in schema:
            made.write(spec.name, [chance.randbytes(64)] if spec.elements else [])
    return made.digest


@pytest.mark.parametrize("kind", ["lossless", "int8", "raw", *ADAPTERS])
async def test_bytes_that_mean_nothing_are_not_taken_and_not_kept(
    kind: str, home: Path, models: Path, enrol: Enrolment
) -> None:
    store = Store(home / "outbox")
    with store.payload(hostile(kind, store, models)) as source:
        async with served(begun(home / "s", models), enrol) as at:
            pushing = Push(source, offer(), at.target)
            if kind == "another kind":
                with pytest.raises(InvalidInput):
                    await pushing.run()
            else:
                assert (await pushing.run()).contribution.status == "set aside"
            assert at.uploads.store.digests() == []
            assert at.keeper.view.newest.number == 0
            assert (await pushed(at, models / "c1")).ready


# -- a cut at any chunk --------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_only_what_is_missing_is_asked_for(
    home: Path, models: Path, enrol: Enrolment, restarts: bool
) -> None:
    folder = begun(home / "s", models)
    with source_of(models / "c1") as source:
        count = source.manifest.chunk_count
        async with served(folder, enrol) as at:
            await announced(at, source)
            left = await uploaded(at, source, [0, 2, 3])
            assert left.missing_chunks == count - 3
            if not restarts:
                assert (await announced(at, source)).missing == left.missing
        async with served(folder, enrol) as at:
            again = await announced(at, source)
            assert again.missing == left.missing
            sent: list[int] = []
            reply = await Push(source, offer(), at.target, on_sent=sent.append).run()
            assert reply.ready
            lengths = [source.manifest.chunk(index).length for index in range(count)]
            assert sum(sent) == sum(lengths) - sum(lengths[index] for index in (0, 2, 3))


async def test_a_cut_at_every_chunk_costs_nothing_that_was_whole(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        with source_of(models / "c1") as source:
            begun_one = await announced(at, source)
            for index in range(begun_one.missing_chunks):
                reply = await uploaded(at, source, [index])
                assert reply.missing_chunks == begun_one.missing_chunks - index - 1
            assert (await committed(at, source)).ready


class Cutting:
    """A source whose reading fails now and then, as a network does."""

    def __init__(self, source: Source, every: int) -> None:
        self.manifest, self._source = source.manifest, source
        self._every, self.reads = every, 0

    def fill(self, name: str, into: memoryview, offset: int) -> None:
        self.reads += 1
        if self.reads % self._every == 0:
            raise Unavailable("cut")
        self._source.fill(name, into, offset)


async def test_a_push_goes_on_after_cuts_and_ends(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    async with served(begun(home / "s", models), enrol) as at:
        with source_of(models / "c1") as source:
            cutting = Cutting(source, every=7)
            patience = Trying(30, sleep=at_once)
            reply = await Push(cutting, offer(), at.target, patience=patience).run()
        assert reply.ready
        assert cutting.reads > source.manifest.chunk_count


async def test_patience_ends_when_nothing_gets_through(tmp_path: Path, enrol: Enrolment) -> None:
    now, said = [0.0], list[str]()

    async def passing(seconds: float) -> None:
        now[0] += max(seconds, 1.0)

    pool = ChannelPool(enrol("olga"))
    target = Target(pool=pool, address="127.0.0.1:9", name="stream")
    patience = Trying(5.0, clock=lambda: now[0], sleep=passing, say=said.append)
    store = Store(tmp_path / "held")
    with (
        store.payload(deposit(store, {"a": 8})) as source,
        pytest.raises(Unavailable, match="nobody answers there"),
    ):
        await Push(source, offer(), target, patience=patience).run()
    await pool.close()
    assert 5.0 <= now[0] < 20
    assert len(said) == 1


# -- what is refused before a byte moves ------------------------------------------------


async def test_another_base_and_other_kinds_are_refused_at_once(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    store = Store(home / "outbox")
    with open_checkpoint(models / "c1") as one, open_checkpoint(models / "c2") as two:
        other = put_model(store, two)
        wrong_base = put_delta(store, one, two, other, "lossless")
        whole = put_delta(store, one, None, None, "lossless")
    refused = {
        wrong_base: "a delta against .*; this stream's base is",
        whole: "a delta against None",
        deposit(store, {"a": 8}): "not the expected model",
        deposit(store, {"a": 8}, kind="state"): "takes model, delta and adapter",
        deposit(store, {"a": 8}, kind="adapter"): "adapter_config in its metadata",
    }
    async with served(begun(home / "s", models), enrol) as at:
        for digest, why in refused.items():
            with store.payload(digest) as source, pytest.raises(Refused, match=why):
                await announced(at, source)
        assert list((at.uploads.store.root / "staging").iterdir()) == []
        assert at.keeper.view.contributions == ()


WRONG_OFFERS: dict[str, dict[str, Any]] = {
    "a long name": {"name": "x" * 201},
    "a line end": {"name": "a\nb"},
    "a long lineage": {"lineage": "x" * 201},
    "no number": {"weight": float("nan")},
    "infinite": {"weight": float("inf")},
    "a step beyond any": {"step": 2**60},
    "a generation beyond any": {"started_from": 2**60},
}


@pytest.mark.parametrize("fields", WRONG_OFFERS.values(), ids=WRONG_OFFERS)
async def test_offers_that_cannot_be(
    fields: dict[str, Any], home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        with source_of(models / "c1") as source:
            with pytest.raises(InvalidInput):
                await announced(at, source, offer(**fields))
            with pytest.raises(InvalidInput):
                await committed(at, source, **fields)


async def test_messages_out_of_order_are_refused(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    head = pb.UploadHead(digest="ab" * 32)
    async with served(begun(home / "s", models), enrol) as at:
        calls: list[tuple[Any, list[Any]]] = [
            (at.stub.Begin, []),
            (at.stub.Begin, [pb.BeginRequest(offer=offer())]),
            (at.stub.Begin, [pb.BeginRequest(manifest_piece=b"x")]),
            (at.stub.Begin, [pb.BeginRequest(offer=offer()), pb.BeginRequest()]),
            (at.stub.Upload, []),
            (at.stub.Upload, [pb.UploadRequest(chunk=Chunk(index=0, data=b"x"))]),
            (at.stub.Upload, [pb.UploadRequest(head=pb.UploadHead(digest="no digest"))]),
            (at.stub.Upload, [pb.UploadRequest(head=head)]),
        ]
        for method, messages in calls:

            async def each(of: Sequence[Any] = messages) -> AsyncIterator[Any]:
                for message in of:
                    yield message

            with pytest.raises(InvalidInput):
                await send(method, each())
        for seq in (0, 1, 2**40):
            with pytest.raises(NotFound):
                await call(at.stub.Wait, pb.WaitRequest(seq=seq), timeout_s=5)


async def test_bytes_that_do_not_match_are_refused_and_not_kept(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        with source_of(models / "c1") as source:
            all_of_it = (await announced(at, source)).missing_chunks
            with pytest.raises(Corrupt, match="does not match its digest"):
                await uploaded(at, source, [0], spoil=True)
            assert (await announced(at, source)).missing_chunks == all_of_it
            with pytest.raises(Refused, match="chunks are missing"):
                await committed(at, source)


async def test_a_node_reads_and_pushes_and_an_operator_alone_takes_back(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        pool = ChannelPool(enrol("node-a"))
        target = Target(pool=pool, address=at.target.address, name="stream")
        with source_of(models / "c1") as source:
            assert (await Push(source, offer(), target).run()).ready
        with pytest.raises(Denied):
            await call(target.stub().Revoke, pb.RevokeRequest(seq=1), timeout_s=5)
        with pytest.raises(Denied):
            await call(target.stub().Rollback, pb.RollbackRequest(generation=0), timeout_s=5)
        await pool.close()


# -- history, and back -----------------------------------------------------------------


async def test_history_revoke_and_rollback(home: Path, models: Path, enrol: Enrolment) -> None:
    async def entries(at: Served, **after: int) -> list[pb.HistoryEntry]:
        return [each async for each in stream(at.stub.History, pb.HistoryRequest(**after))]

    async with served(begun(home / "s", models), enrol) as at:
        for name in ("c1", "c2"):
            await pushed(at, models / name)
        await comes(lambda: at.keeper.view.newest.number == 2)
        assert len(await entries(at)) == 2 + 3
        later = await entries(at, after_contribution=1, after_generation=1)
        assert [each.contribution.seq or each.generation.number for each in later] == [2, 2]
        assert await entries(at, after_contribution=2**60, after_generation=2**60) == []
        for _ in range(2):
            revoked = await call(at.stub.Revoke, pb.RevokeRequest(seq=2, wait_s=10), timeout_s=15)
            assert (revoked.ready, revoked.generation.number) == (True, 3)
        back = await call(
            at.stub.Rollback, pb.RollbackRequest(generation=1, wait_s=10), timeout_s=15
        )
        assert (back.generation.number, back.generation.members) == (4, 1)
        assert back.generation.head == at.keeper.view.generations[1].head
        with pytest.raises(NotFound):
            await call(at.stub.Rollback, pb.RollbackRequest(generation=99, wait_s=5), timeout_s=9)


# -- while it works ----------------------------------------------------------------------


@asynccontextmanager
async def held_up(keeper: Keeper) -> AsyncIterator[None]:
    """The stream's thread stands in the middle of something long."""
    go_on = threading.Event()
    standing = asyncio.create_task(keeper.ask(lambda stream: go_on.wait(60)))
    try:
        yield
    finally:
        go_on.set()
        await standing


async def test_reading_waits_for_no_absorption(home: Path, models: Path, enrol: Enrolment) -> None:
    async with served(begun(home / "s", models), enrol) as at, held_up(at.keeper):
        head = await call(at.stub.Head, pb.HeadRequest(), timeout_s=10)
        assert head.generation.number == 0
        assert [each async for each in stream(at.stub.History, pb.HistoryRequest(), progress_s=10)]
        with source_of(models / "c1") as source:
            begun_one = await announced(at, source)
            await uploaded(at, source, range(begun_one.missing_chunks))
            assert not (await committed(at, source, wait_s=0.1)).ready


async def test_a_full_disk_is_said_and_tried_again_until_there_is_room(
    home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 0.01)
    work, full = Stream.work, [True]

    def filling(self: Stream) -> Generation | None:
        if full[0] and self.queue.due() is not None:
            raise DiskFull("no room")
        return work(self)

    monkeypatch.setattr(Stream, "work", filling)
    async with served(begun(home / "s", models), enrol) as at:
        seq = (await pushed(at, models / "c1")).contribution.seq
        await comes(lambda: at.keeper.trouble == "no room")
        assert (await call(at.stub.Head, pb.HeadRequest(), timeout_s=5)).message == "no room"
        reply = await call(at.stub.Wait, pb.WaitRequest(seq=seq, wait_s=0.1), timeout_s=5)
        assert (reply.contribution.status, reply.message) == ("waiting", "no room")
        full[0] = False
        told = await settled(at.target, seq, patience=Trying(), say=print)
        assert told.status == "absorbed"
        await comes(lambda: at.keeper.trouble == "")


async def test_no_room_for_what_is_pushed_is_an_answer_and_nothing_changes(
    home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Stream, *given: Any, **named: Any) -> None:
        raise DiskFull("no room")

    async with served(begun(home / "s", models), enrol) as at:
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "offer", full)
            with pytest.raises(Exhausted, match="no room"):
                await pushed(at, models / "c1")
        sent: list[int] = []
        with source_of(models / "c1") as source:
            assert (await Push(source, offer(), at.target, on_sent=sent.append).run()).ready
        assert sent == [], "what was sent has stayed"


class Odd(RuntimeError):
    """What nobody expects of a merge."""


async def test_what_nobody_expects_is_said_and_tried_again(
    home: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 0.01)
    left = [Odd("no convergence"), OSError(errno.ENOSPC, "no space left"), DiskFull("no room")]
    work = Stream.work

    def failing(self: Stream) -> Generation | None:
        if left and self.queue.due() is not None:
            raise left.pop(0)
        return work(self)

    monkeypatch.setattr(Stream, "work", failing)
    async with kept(begun(home / "s", models)) as keeper, Silent(keeper.work()):
        await keeper.ask(lambda stream: stream.offer(models / "c1"))
        await comes(lambda: keeper.view.newest.number == 1)
        await comes(lambda: keeper.trouble == "")


async def test_a_wish_that_failed_for_want_of_room_is_done_once_there_is_some(
    home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 0.01)
    async with served(begun(home / "s", models), enrol) as at:
        await pushed(at, models / "c1")
        await comes(lambda: at.keeper.view.newest.number == 1)
        work, left = Stream.work, [DiskFull("no room")]

        def failing(self: Stream) -> Generation | None:
            if left and self.queue.due() is not None:
                raise left.pop()
            return work(self)

        monkeypatch.setattr(Stream, "work", failing)
        with pytest.raises(Exhausted):
            await call(at.stub.Revoke, pb.RevokeRequest(seq=1, wait_s=10), timeout_s=15)
        await comes(lambda: at.keeper.view.contributions[0].status is Status.REVOKED)


@pytest.mark.parametrize("error", [Corrupt("rotted"), OSError(errno.EIO, "rotted")])
async def test_damage_of_the_stream_itself_ends_the_work(
    error: Exception, home: Path, models: Path
) -> None:
    async with kept(begun(home / "s", models)) as keeper:

        def damaged(stream: Stream) -> None:
            def work() -> None:
                raise error

            stream.work = work  # type: ignore[method-assign]

        await keeper.ask(damaged)
        with pytest.raises(type(error), match="rotted"):
            await asyncio.wait_for(keeper.work(), 5)


async def test_figures(home: Path, models: Path) -> None:
    metrics = StreamMetrics()
    keeper = await Keeper.open(begun(home / "s", models), metrics)
    async with Silent(keeper.work()):
        await keeper.ask(lambda stream: stream.offer(models / "c1"))
        await keeper.ask(lambda stream: stream.refuse("odd", name="x"))
        await comes(lambda: keeper.view.newest.number == 1)
        await asyncio.sleep(0)
    await keeper.close()
    shown = generate_latest(metrics.registry).decode()
    for line in (
        'weft_stream_contributions{status="absorbed"} 1.0',
        'weft_stream_contributions{status="set aside"} 1.0',
        "weft_stream_generation 1.0",
        "weft_stream_waiting 0.0",
        "weft_stream_absorb_seconds_count 1.0",
    ):
        assert line in shown


# -- the daemon's own mistakes --------------------------------------------------------------


def test_what_is_served_to_nobody_is_refused(home: Path) -> None:
    (home / "w").mkdir()
    (home / "s" / "w").mkdir(parents=True)
    for fields, why in [
        ({}, "--watch FOLDER, --listen HOST:PORT, or both"),
        ({"listen": "127.0.0.1:0"}, "--credentials"),
        ({"watch": home / "gone"}, "no such folder to watch"),
        ({"watch": home / "s" / "w"}, "the stream itself writes there"),
    ]:
        with pytest.raises(WeftError, match=why):
            StreamServerConfig(folder=home / "s", **fields)  # type: ignore[arg-type]


async def test_with_credentials_that_cannot_be_used_nothing_is_left_unawaited(
    home: Path, models: Path
) -> None:
    (home / "w").mkdir()
    config = StreamServerConfig(
        folder=begun(home / "s", models),
        watch=home / "w",
        listen="127.0.0.1:0",
        credentials=home / "w",
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(BadCredentials):
            await serve(config, stop=asyncio.Event())
        gc.collect()
    assert [str(each.message) for each in warned if "awaited" in str(each.message)] == []


async def test_it_serves_and_watches_and_stops_when_told(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    (home / "w").mkdir()
    config = StreamServerConfig(
        folder=begun(home / "s", models),
        watch=home / "w",
        listen="127.0.0.1:0",
        credentials=enrol("stream").folder,
        metrics="127.0.0.1:0",
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    async with asyncio.timeout(10):
        await serve(config, stop=stop)
