"""A node's own stream: the heads of a stream fed by hand, whatever the process is killed in."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.node.continual.streams import in_memory
from weft.checkpoints.artifacts import open_model, put_model
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_checkpoint
from weft.node import journal as journal_module
from weft.node.continual import files
from weft.node.continual.queue import ADVANCED
from weft.node.continual.records import Status
from weft.node.continual.spec import StreamSpec
from weft.node.continual.stream import Stream
from weft.node.entries import Chosen
from weft.node.errors import JournalBusy, NoBaseForStream
from weft.node.journal import Journal
from weft.node.ledger import Parent
from weft.node.merging import Merging, Weighted
from weft.node.own_stream import OwnStream
from weft.protocol.run import Digest, MergeSpec, NodeId, RunSpec

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
WEIGHTS: Mapping[NodeId, float] = {A: 0.5, B: 0.25, C: 0.25}

ROUNDS: tuple[tuple[NodeId, ...], ...] = ((A, B, C), (A, C), (A, B), (A,))
"""Who was heard in each round; a is the node itself."""


def tensors(seed: int, *, statistics: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {
        "a.weight": torch.randn(6, 4, generator=generator),
        "c.bias": torch.randn(5, generator=generator),
    }
    if statistics:
        found["b.running_mean"] = torch.randn(4, generator=generator)
        found["b.num_batches_tracked"] = torch.tensor(seed)
    return found


class Bench:
    """A node's store with a base, and contributions of nodes to rounds."""

    def __init__(
        self, folder: Path, method: str = "mean", *, statistics: bool = False, **options: float
    ) -> None:
        self.folder, self.statistics = folder, statistics
        folder.mkdir(parents=True, exist_ok=True)
        self.base = folder / "base.safetensors"
        write_checkpoint(self.base, tensors(0, statistics=statistics), {})
        self.store = Store(folder / "store")
        with open_checkpoint(self.base) as reader:
            base = put_model(self.store, reader)
        merge = MergeSpec(mode="continual", method=method, options=dict(options))
        self.spec = RunSpec(name="r", nodes=3, rounds=4, base=base, merge=merge)
        self.merging = Merging(self.store, self.spec)

    def model(self, node: NodeId, round: int) -> Path:
        path = self.folder / f"{node}{round}.safetensors"
        seed = 10 * (round + 1) + "abc".index(node)
        write_checkpoint(path, tensors(seed, statistics=self.statistics), {})
        return path

    def publish(self, node: NodeId, round: int) -> Digest:
        metadata = {"run": "r", "node": node, "round": str(round)}
        return self.merging.publish(self.model(node, round), metadata, owner="test")

    def chosen(self, round: int, nodes: tuple[NodeId, ...] | None = None) -> Chosen:
        heard = ROUNDS[round] if nodes is None else nodes
        return Chosen(
            round=round,
            # A journal gives them back in any order: names decide.
            parents={node: self.publish(node, round) for node in reversed(heard)},
            weights={node: WEIGHTS[node] for node in heard},
            missed={},
        )

    def absorb(self, round: int) -> tuple[Digest, tuple[Parent, ...]]:
        own = OwnStream(self.folder / "stream", self.store, self.spec)
        return own.absorb(A, self.chosen(round))

    def read(self, digest: str) -> dict[str, Tensor]:
        with open_model(self.store, digest) as reader:
            return {name: reader.read(name) for name in reader.schema.names}

    def by_hand(self, folder: Path, method: str, **options: object) -> Iterator[tuple[str, Stream]]:
        """The head after each round, of a stream that a person feeds with checkpoints."""
        files.begin(folder, self.base, StreamSpec(method=method, options=options))
        for round, heard in enumerate(ROUNDS):
            with Stream(folder) as stream:
                for node in heard:
                    path, weight = self.model(node, round), WEIGHTS[node]
                    stream.offer(path, weight=weight, lineage=node, step=round + 1)
                stream.drain()
                yield stream.queue.generation.head, stream


@pytest.fixture
def home() -> Iterator[Path]:
    with in_memory("own-stream") as folder:
        yield folder


@pytest.mark.parametrize(
    "method", ["mean", "task_arithmetic", "magmax", "opcm", "ema", "continual_ties", "wudi"]
)
def test_every_round_ends_with_the_head_of_a_stream_fed_by_hand(method: str, home: Path) -> None:
    bench = Bench(home, method)
    expected = [head for head, _ in bench.by_hand(home / "hand", method)]
    found = [bench.absorb(round)[0] for round in range(len(ROUNDS))]
    assert found == expected
    assert len(set(found)) == len(ROUNDS)


def test_who_is_missed_stays_with_what_came_before(home: Path) -> None:
    bench = Bench(home)
    last = dict.fromkeys((A, B, C), 0)
    for round, heard in enumerate(ROUNDS):
        last |= dict.fromkeys(heard, round)
        _, members = bench.absorb(round)
        assert {Parent(node=n, digest=bench.publish(n, r), weight=WEIGHTS[n])
                for n, r in last.items()} == set(members)  # fmt: skip
        assert len(members) == 3
    merged = bench.read(bench.absorb(3)[0])
    task = {n: tensors(10 * (r + 1) + "abc".index(n), statistics=False) for n, r in last.items()}
    for name, tensor in merged.items():
        mean = sum(WEIGHTS[node] * task[node][name].double() for node in last)
        assert torch.allclose(tensor.double(), torch.as_tensor(mean), atol=1e-6)


@pytest.mark.parametrize("method", ["mean", "opcm"])
def test_a_head_can_be_made_again_from_what_is_said_to_be_in_it(method: str, home: Path) -> None:
    bench = Bench(home, method)
    for round in range(len(ROUNDS)):
        head, members = bench.absorb(round)
        files.begin(home / f"again{round}", bench.base, StreamSpec(method=method))
        with Stream(home / f"again{round}") as stream:
            for member in members:
                path = bench.store.payload_path(member.digest).parent
                stream.offer(path, weight=member.weight)
            stream.drain()
            assert stream.queue.generation.head == head


def test_statistics_and_buffers_are_the_nodes_own(home: Path) -> None:
    bench = Bench(home, statistics=True)
    for round in range(2):
        merged = bench.read(bench.absorb(round)[0])
        own = tensors(10 * (round + 1), statistics=True)
        assert torch.equal(merged["b.running_mean"], own["b.running_mean"])
        assert torch.equal(merged["b.num_batches_tracked"], own["b.num_batches_tracked"])
        assert not torch.equal(merged["a.weight"], own["a.weight"])


@pytest.mark.parametrize("method", ["mean", "task_arithmetic", "magmax", "opcm", "continual_ties"])
def test_where_nobody_is_missed_it_is_the_merge_of_the_round(method: str, home: Path) -> None:
    bench = Bench(home, method, statistics=True)
    for round in range(2):
        chosen = bench.chosen(round, (A, B, C))
        own = OwnStream(home / "stream", bench.store, bench.spec)
        merged, _ = own.absorb(A, chosen)
        pairs = [
            Weighted(node=node, digest=chosen.parents[node], weight=WEIGHTS[node])
            for node in (A, B, C)
        ]
        expected = bench.merging.merge(method, {}, pairs, own=A, metadata={})
        assert merged == expected


def test_a_round_that_is_done_again_changes_nothing(home: Path) -> None:
    bench = Bench(home)
    for round in range(len(ROUNDS)):
        first = bench.absorb(round)
        with Stream(home / "stream") as stream:
            generations = stream.queue.generations
        assert bench.absorb(round) == first
        with Stream(home / "stream") as stream:
            assert stream.queue.generations == generations


def alike(round: int, models: Mapping[NodeId, Digest]) -> Chosen:
    """Who published what to a round, all of one weight."""
    return Chosen(round=round, parents=dict(models), weights=dict.fromkeys(models, 1.0), missed={})


def test_equal_content_counts_for_each_node_and_in_each_round(home: Path) -> None:
    """The share of every content in the head, whoever published it and whenever before."""
    bench = Bench(home)
    models = {
        name: tensors(seed, statistics=False)
        for name, seed in zip("xyz", (51, 52, 53), strict=True)
    }
    digests: dict[str, Digest] = {}
    for name, values in models.items():
        write_checkpoint(home / f"{name}.safetensors", values, {})
        digests[name] = bench.merging.publish(home / f"{name}.safetensors", {}, owner="test")
    rounds: tuple[tuple[dict[NodeId, str], dict[str, int]], ...] = (
        ({A: "x", B: "x", C: "y"}, {"x": 2, "y": 1}),
        ({A: "z", B: "z"}, {"z": 2, "y": 1}),
        ({A: "x"}, {"x": 1, "z": 1, "y": 1}),
        ({A: "x", C: "x"}, {"x": 2, "z": 1}),
    )
    for round, (published, shares) in enumerate(rounds):
        own = OwnStream(home / "stream", bench.store, bench.spec)
        chosen = alike(round, {node: digests[name] for node, name in published.items()})
        head, members = own.absorb(A, chosen)
        assert own.absorb(A, chosen) == (head, members)
        assert sorted(member.node for member in members) == [A, B, C]
        assert {m.node: m.digest for m in members}.items() >= chosen.parents.items()
        for name, tensor in bench.read(head).items():
            mean = sum(count * models[of][name].double() for of, count in shares.items()) / 3
            assert torch.allclose(tensor.double(), torch.as_tensor(mean), atol=1e-6)
    with Stream(home / "stream") as stream:
        assert len(stream.queue.contributions) == sum(len(published) for published, _ in rounds)


class Killed(BaseException):
    """Nobody catches it."""


@pytest.mark.parametrize("method", ["mean", "opcm"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_entry_of_the_stream(
    when: str, method: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any offer, any generation and `merged`: the same digests, the same members."""
    whole = Bench(home / "whole", method)
    expected = [whole.absorb(round) for round in range(len(ROUNDS))]
    append, lives = Journal.append, 0

    def deadly(journal: Journal, kind: str, entry: Mapping[str, object]) -> int:
        nonlocal lives
        which = (kind, entry.get("number", entry.get("seq")))  # times differ from life to life
        if when == "before" and which not in met:
            met.add(which)
            raise Killed
        seq = append(journal, kind, entry)
        if when == "after":
            raise Killed
        return seq

    met: set[tuple[str, object]] = set()
    monkeypatch.setattr(Journal, "append", deadly)
    bench = Bench(home / "killed", method)
    for round in range(len(ROUNDS)):
        while True:
            try:
                found = bench.absorb(round)
                break
            except Killed:
                lives += 1
        assert found == expected[round]
    # begun; accepted and advanced for each of eight contributions
    assert lives == 1 + 2 * sum(map(len, ROUNDS))


def test_what_the_method_refuses_is_set_aside_and_the_older_one_stays(home: Path) -> None:
    bench = Bench(home)
    first = bench.absorb(0)
    huge = {name: 1e30 * value for name, value in tensors(77, statistics=False).items()}
    write_checkpoint(home / "huge.safetensors", huge, {})
    digest = bench.merging.publish(home / "huge.safetensors", {"node": "b"}, owner="test")
    weights = {A: 0.5, B: 0.25}
    parents = {A: bench.publish(A, 1), B: digest}
    chosen = Chosen(round=1, parents=parents, weights=weights, missed={})
    own = OwnStream(home / "stream", bench.store, bench.spec)
    head, members = own.absorb(A, chosen)
    assert own.absorb(A, chosen) == (head, members)
    with Stream(home / "stream") as stream:
        assert stream.queue.contribution(5).status is Status.SET_ASIDE
    kept = {member.node: member.digest for member in members}
    assert kept == {A: parents[A], **{m.node: m.digest for m in first[1] if m.node != A}}


def test_a_run_without_a_base_has_no_stream(home: Path) -> None:
    bench = Bench(home)
    spec = bench.spec.model_copy(update={"base": None})
    with pytest.raises(NoBaseForStream, match="it has none"):
        OwnStream(home / "stream", bench.store, spec).absorb(A, bench.chosen(0))


def test_a_base_that_comes_to_another_digest_begins_no_stream(home: Path) -> None:
    bench = Bench(home)
    with open_checkpoint(bench.base) as reader:
        named = put_model(bench.store, reader, metadata={"name": "b"})
    spec = bench.spec.model_copy(update={"base": named})
    for _ in range(2):
        with pytest.raises(NoBaseForStream, match="in a stream"):
            OwnStream(home / "stream", bench.store, spec).absorb(A, bench.chosen(0))


@pytest.mark.parametrize("when", ["opened", "written"])
def test_a_journal_that_another_process_holds_is_busy_and_the_round_is_done_again(
    when: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds it, at the opening or in the middle of a round: the same heads after it."""
    whole, bench = Bench(home / "whole"), Bench(home / "held")
    expected = [whole.absorb(round) for round in range(2)]
    assert bench.absorb(0) == expected[0]
    monkeypatch.setattr(journal_module, "BUSY_S", 0.05)
    other = sqlite3.connect(home / "held" / "stream" / files.JOURNAL, isolation_level=None)
    append = Journal.append

    def held(journal: Journal, kind: str, entry: Mapping[str, object]) -> int:
        if kind == ADVANCED and not other.in_transaction:
            other.execute("BEGIN EXCLUSIVE")
        return append(journal, kind, entry)

    if when == "opened":
        other.execute("BEGIN EXCLUSIVE")
    else:
        monkeypatch.setattr(Journal, "append", held)
    for _ in range(2):
        with pytest.raises(JournalBusy, match="busy with another process"):
            bench.absorb(1)
    monkeypatch.setattr(Journal, "append", append)
    other.close()
    assert bench.absorb(1) == expected[1]


def test_a_stream_that_another_process_works_on_is_waited_for(home: Path) -> None:
    """Somebody adds to it by hand while the node wants to: the round is due again."""
    whole, bench = Bench(home / "whole"), Bench(home / "held")
    expected = [whole.absorb(round) for round in range(2)]
    assert bench.absorb(0) == expected[0]
    with (
        Stream(home / "held" / "stream"),
        pytest.raises(JournalBusy, match=rf"own stream is held up: .*\(pid {os.getpid()}\)"),
    ):
        bench.absorb(1)
    assert bench.absorb(1) == expected[1]
