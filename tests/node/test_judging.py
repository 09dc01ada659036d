"""What is judged where a run aligns: neighbours in this node's order of units."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from prometheus_client import generate_latest
from torch import Tensor, nn

from weft.checkpoints.artifacts import open_model
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_checkpoint
from weft.node.aligning import Aligning
from weft.node.guards import Reason
from weft.node.judging import Judgement, Judging
from weft.node.merging import Merging
from weft.node.metrics import NodeMetrics
from weft.node.training import AlignRequest, AlignResult, TrainerBackend, UnitFacts
from weft.node.unit_matching import Matcher
from weft.node.workspace import Workspace
from weft.protocol.run import Align, Digest, GuardSpec, MergeSpec, NodeId, RunSpec

ME, TWIN, OTHER = NodeId("me"), NodeId("twin"), NodeId("other")
WIDTH = 32
OWNER = "round-000000"


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))


def tensors_of(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(network().state_dict())


def shuffled(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(seed))
    return {
        "0.weight": tensors["0.weight"][order],
        "0.bias": tensors["0.bias"][order],
        "2.weight": tensors["2.weight"][:, order].contiguous(),
        "2.bias": tensors["2.bias"],
    }


class InProcess:
    """The part of a training backend that aligns, without a process."""

    def __init__(self) -> None:
        self.batches = [
            torch.randn(64, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
        ]
        self.matcher = Matcher(network(), self.batches[0])
        self.asked: list[AlignRequest] = []

    async def units(self) -> UnitFacts:
        return self.matcher.facts()

    async def align(self, request: AlignRequest) -> AlignResult:
        self.asked.append(request)
        return AlignResult(moved=tuple(self.matcher.align(request, self.batches)), seconds=0.0)


@dataclass
class Bench:
    """A node's store with contributions, and its judge."""

    folder: Path
    spec: RunSpec
    backend: InProcess
    metrics: NodeMetrics

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder)

    @property
    def store(self) -> Store:
        return self.workspace.store

    def publish(self, tensors: dict[str, Tensor]) -> Digest:
        path = self.folder / "model.safetensors"
        write_checkpoint(path, tensors, {})
        return Merging(self.store, self.spec).publish(path, {}, owner="test")

    async def judge(self, own: Digest, arrived: dict[NodeId, Digest]) -> Judgement:
        aligning = Aligning(
            spec=self.spec,
            workspace=self.workspace,
            training=cast(TrainerBackend, self.backend),
            metrics=self.metrics,
        )
        judging = Judging(
            me=ME,
            spec=self.spec,
            workspace=self.workspace,
            aligning=aligning if self.spec.merge.aligns else None,
            metrics=self.metrics,
        )
        return await judging.judge(0, own, arrived, owner=OWNER)

    def figure(self, name: str) -> float:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return float(next(line for line in lines if line.startswith(name)).split()[-1])


def bench(folder: Path, align: Align, **guards: Any) -> Bench:
    spec = RunSpec(
        name="r",
        nodes=3,
        rounds=1,
        schema_digest="0" * 64,
        merge=MergeSpec(align=align),
        guards=GuardSpec(**guards),
    )
    folder.mkdir(exist_ok=True)
    return Bench(folder, spec, InProcess(), NodeMetrics(states=["waiting"]))


@pytest.mark.parametrize("align", ["activations", "weights"])
async def test_a_neighbour_is_merged_in_this_node_s_order_of_units(
    tmp_path: Path, align: Align
) -> None:
    """The same network in another order: a guard refuses it as it is, and not once aligned."""
    own, order = tensors_of(0), 1
    for how, refused in (("none", {TWIN: Reason.COSINE}), (align, {})):
        node = bench(tmp_path / how, cast(Align, how), cosine=0.9)
        digest = node.publish(own)
        arrived = {TWIN: node.publish(shuffled(own, order))}
        judgement = await node.judge(digest, arrived)
        assert judgement.refused == refused
    found = judgement.aligned[TWIN]
    assert node.figure("weft_node_consensus_distance ") == 0
    assert node.figure('weft_node_moved_units{peer="twin"}') == found.moved > 0.5
    assert (found.digest, OWNER) in list(node.store.pins())
    with open_model(node.store, found.digest) as reader:
        assert all(torch.equal(reader.read(name), tensor) for name, tensor in own.items())
        assert node.store.manifest(found.digest).metadata["published"] == arrived[TWIN]
    assert not list((tmp_path / align / "rounds").rglob("*.safetensors"))


async def test_the_distance_is_that_after_alignment(tmp_path: Path) -> None:
    distances = {}
    for how in ("none", "weights"):
        node = bench(tmp_path / how, how)
        mine, near = tensors_of(0), {k: v + 0.01 for k, v in tensors_of(0).items()}
        await node.judge(node.publish(mine), {OTHER: node.publish(shuffled(near, 3))})
        distances[how] = node.figure("weft_node_consensus_distance ")
    count = sum(tensor.numel() for tensor in tensors_of(0).values())
    assert distances["weights"] == pytest.approx(0.01 / 2 * count**0.5, rel=1e-3)
    assert distances["none"] > 20 * distances["weights"]


async def test_again_gives_the_same_digests(tmp_path: Path) -> None:
    """After a kill between the judgement and its entry it is made again."""
    node = bench(tmp_path, "activations")
    own, other = node.publish(tensors_of(0)), node.publish(tensors_of(5))
    first = await node.judge(own, {OTHER: other})
    assert await node.judge(own, {OTHER: other}) == first
    assert first.aligned[OTHER].digest != other


async def test_what_is_not_finite_or_cannot_be_read_is_never_matched(tmp_path: Path) -> None:
    node = bench(tmp_path, "activations")
    own, good = tensors_of(0), node.publish(tensors_of(1))
    broken = node.publish({**tensors_of(2), "0.bias": torch.full((WIDTH,), float("nan"))})
    torn = node.publish(tensors_of(3))
    payload = node.store.payload_path(torn)
    payload.chmod(0o600)
    payload.write_bytes(bytes(payload.stat().st_size))
    arrived = {NodeId("a"): broken, NodeId("b"): torn, OTHER: good}
    judgement = await node.judge(node.publish(own), arrived)
    assert judgement.refused == {NodeId("a"): Reason.NON_FINITE, NodeId("b"): Reason.CORRUPT}
    assert set(judgement.aligned) == {OTHER}
    (asked,) = node.backend.asked
    assert [path.name for path in asked.models] == ["other.safetensors"]


async def test_nobody_came(tmp_path: Path) -> None:
    node = bench(tmp_path, "activations")
    assert await node.judge(node.publish(tensors_of(0)), {}) == Judgement(refused={})
    assert node.backend.asked == []
