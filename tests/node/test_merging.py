"""The tensor work of a node: publish, refuse, merge, and shares that anyone may fold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from weft.checkpoints.artifacts import open_contribution, open_model, put_model
from weft.checkpoints.errors import SchemaMismatch, WrongBase
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_checkpoint
from weft.node.merging import Merging, Weighted
from weft.protocol.run import Digest, NodeId, RunSpec


def tensors(seed: int, rows: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(rows, 3, generator=generator),
        "b.running_mean": torch.randn(4, generator=generator),
        "b.num_batches_tracked": torch.tensor(seed),
        "c.bias": torch.randn(7, generator=generator),
    }


class Bench:
    """A store with a base, and models beside it."""

    def __init__(self, folder: Path, *, with_base: bool = True) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        write_checkpoint(folder / "base.safetensors", tensors(0), {})
        with open_checkpoint(folder / "base.safetensors") as reader:
            schema = reader.schema.digest
            base = put_model(self.store, reader) if with_base else None
        self.spec = RunSpec(name="r", nodes=2, rounds=1, base=base, schema_digest=schema)
        self.merging = Merging(self.store, self.spec)

    def model(self, seed: int, rows: int = 5) -> Path:
        path = self.folder / f"{seed}.safetensors"
        write_checkpoint(path, tensors(seed, rows), {})
        return path

    def publish(self, seed: int) -> Digest:
        return self.merging.publish(self.model(seed), {"node": str(seed), "round": "0"}, owner="t")

    def merged(self, digest: str) -> dict[str, Tensor]:
        with open_model(self.store, digest) as reader:
            return {name: reader.read(name) for name in reader.schema.names}


@pytest.fixture(params=[True, False], ids=["base", "no-base"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, with_base=request.param)


def weighted(bench: Bench, weights: dict[int, float]) -> list[Weighted]:
    return [
        Weighted(node=NodeId(f"n{seed}"), digest=bench.publish(seed), weight=weight)
        for seed, weight in weights.items()
    ]


def test_publishing_twice_gives_one_digest(bench: Bench) -> None:
    assert bench.publish(1) == bench.publish(1)


def test_what_is_published_is_the_model_bit_for_bit(bench: Bench) -> None:
    digest = bench.publish(1)
    with bench.merging.base() as base, open_contribution(bench.store, digest, base) as reader:
        for name, tensor in tensors(1).items():
            assert torch.equal(reader.read(name), tensor)


def test_what_travels_is_against_the_base(bench: Bench) -> None:
    manifest = bench.store.manifest(bench.publish(1))
    assert manifest.kind == "delta"
    assert manifest.against == bench.spec.base
    bench.merging.check(manifest, NodeId("1"), 0)


def test_the_merge_is_the_weighted_mean_of_the_parameters(bench: Bench) -> None:
    contributions = weighted(bench, {1: 0.25, 2: 0.75})
    digest = bench.merging.merge("mean", {}, contributions, own=NodeId("n2"), metadata={})
    found, one, two = bench.merged(digest), tensors(1), tensors(2)
    for name in ("a.weight", "c.bias"):
        expected = (0.25 * one[name].double() + 0.75 * two[name].double()).float()
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-7)
    # Statistics and counters are the node's own, never averaged.
    assert torch.equal(found["b.running_mean"], two["b.running_mean"])
    assert int(found["b.num_batches_tracked"]) == 2


def test_the_order_of_contributions_changes_nothing(bench: Bench) -> None:
    contributions = weighted(bench, {1: 0.2, 2: 0.3, 3: 0.5})
    digests = {
        bench.merging.merge("mean", {}, order, own=NodeId("n1"), metadata={})
        for order in (contributions, contributions[::-1], contributions[1:] + contributions[:1])
    }
    assert len(digests) == 1


def test_another_base_is_refused_from_the_manifest(tmp_path: Path) -> None:
    ours, theirs = Bench(tmp_path / "a"), Bench(tmp_path / "b", with_base=False)
    manifest = theirs.store.manifest(theirs.publish(1))
    with pytest.raises(WrongBase, match=r"against no base, the run's base is"):
        ours.merging.check(manifest, NodeId("1"), 0)


def test_other_shapes_are_refused_from_the_manifest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, with_base=False)
    digest = bench.merging.publish(bench.model(9, rows=6), {"node": "9", "round": "0"}, owner="t")
    with pytest.raises(SchemaMismatch):
        bench.merging.check(bench.store.manifest(digest), NodeId("9"), 0)


def test_measure_sees_norms_and_nan(bench: Bench) -> None:
    contributions = weighted(bench, {1: 1.0})
    broken = tensors(2)
    broken["a.weight"][1, 1] = float("nan")
    path = bench.folder / "nan.safetensors"
    write_checkpoint(path, broken, {})
    digest = bench.merging.publish(path, {}, owner="t")
    contributions.append(Weighted(node=NodeId("bad"), digest=digest, weight=1.0))
    statistics = bench.merging.measure(contributions)
    assert statistics.non_finite == {"bad": ("a.weight",)}
    origin = tensors(0) if bench.spec.base else {k: torch.zeros_like(v) for k, v in broken.items()}
    expected = sum(
        float((tensors(1)[name].double() - origin[name].double()).square().sum())
        for name in ("a.weight", "c.bias")
    )
    assert statistics.norms[0] == pytest.approx(expected**0.5, rel=1e-12)


def test_restore_writes_the_whole_model(bench: Bench) -> None:
    out = bench.folder / "restored.safetensors"
    bench.merging.restore(bench.publish(3), out)
    with open_checkpoint(out) as reader:
        for name, tensor in tensors(3).items():
            assert torch.equal(reader.read(name), tensor)
