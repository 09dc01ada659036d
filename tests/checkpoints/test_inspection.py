"""Figures of a model against whole-tensor references."""

import math
from pathlib import Path

import pytest
import torch

from tests.checkpoints.crafted import model
from tests.checkpoints.folders import save_adapter
from weft.checkpoints.adapters import AdapterReader
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.inputs import model_digest
from weft.checkpoints.inspection import inspect_model
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.schema import BLOCK_ELEMENTS


def test_golden() -> None:
    tensors = {"w": torch.tensor([3.0, -4.0]), "n": torch.tensor([1, 7, -2]), "e": torch.zeros(0)}
    found = inspect_model(MemoryReader(tensors))
    assert found.norm == 5.0
    assert found.digest == model_digest(MemoryReader(tensors))
    assert found.delta is None
    empty, numbers, weights = found.tensors
    assert (weights.norm, weights.minimum, weights.maximum) == (5.0, -4.0, 3.0)
    assert (numbers.norm, numbers.minimum, numbers.maximum) == (None, -2.0, 7.0)
    assert (empty.norm, empty.minimum, empty.maximum) == (0.0, None, None)
    assert found.not_finite == ()
    assert inspect_model(MemoryReader(tensors), digest=False).digest is None


def test_task_vector_golden() -> None:
    base = {"w": torch.zeros(10), "bn.running_mean": torch.zeros(1), "ids": torch.zeros(1).int()}
    tuned = {
        "w": torch.tensor([0.0, 1, -2, 3, -4, 5, 6, 7, 8, -9]),
        "bn.running_mean": torch.ones(1) * 100,
        "ids": torch.ones(1).int() * 100,
    }
    found = inspect_model(MemoryReader(tuned), MemoryReader(base), densities=(0.1, 0.25, 1.0))
    assert found.delta is not None
    assert found.delta.norm == math.sqrt(285)
    assert found.delta.relative is None
    assert found.delta.changed == 9
    assert found.delta.cuts == {0.1: 9.0, 0.25: 7.0, 1.0: 0.0}
    by_name = {facts.name: facts.delta_norm for facts in found.tensors}
    assert by_name == {"w": math.sqrt(285), "bn.running_mean": None, "ids": None}


def test_against_whole_tensors() -> None:
    base, tuned = model(), model(1)
    found = inspect_model(MemoryReader(tuned), MemoryReader(base))
    schema = MemoryReader(base).schema
    deltas = torch.cat(
        [(tuned[s.name].double() - base[s.name].double()).reshape(-1) for s in schema.parameters]
    )
    assert found.delta is not None
    assert found.delta.norm == pytest.approx(float(deltas.norm()), rel=1e-12)
    whole = torch.cat([base[s.name].double().reshape(-1) for s in schema.parameters])
    assert found.delta.relative == pytest.approx(float(deltas.norm() / whole.norm()), rel=1e-12)
    ordered = deltas.abs().float().sort(descending=True).values
    for density, cut in found.delta.cuts.items():
        assert cut == float(ordered[math.ceil(density * len(ordered)) - 1])


def test_values_that_are_not_finite() -> None:
    tensors = {
        "bad": torch.tensor([1.0, math.nan, math.inf, -2.0, -math.inf]),
        "good": torch.ones(2),
        "half": torch.tensor([65504.0, math.inf]).half(),
    }
    found = inspect_model(MemoryReader(tensors), MemoryReader(tensors))
    assert [facts.name for facts in found.not_finite] == ["bad", "half"]
    bad = found.tensors[0]
    assert (bad.nan, bad.infinite, bad.minimum, bad.maximum) == (1, 2, -2.0, 1.0)
    assert bad.norm == math.sqrt(5)
    assert found.delta is not None
    assert found.delta.cuts == {}


def test_several_blocks_and_their_progress() -> None:
    tensor = torch.arange(BLOCK_ELEMENTS + 3, dtype=torch.float32)
    reader, seen = MemoryReader({"w": tensor}), [0.0]
    found = inspect_model(reader, MemoryReader({"w": tensor * 0}), advance=seen.append)
    assert found.norm == pytest.approx(float(tensor.double().norm()), rel=1e-12)
    assert found.tensors[0].maximum == BLOCK_ELEMENTS + 2
    assert sum(seen) == 2 * reader.schema.size_bytes


def test_exact_task_vector_of_an_adapter(tmp_path: Path) -> None:
    """Below the rounding of the base: the model is the base, the task vector is not zero."""
    factors = {
        "q.lora_A.weight": torch.full((2, 4), 1e-6),
        "q.lora_B.weight": torch.full((3, 2), 1e-3),
    }
    save_adapter(tmp_path, factors)
    base = MemoryReader({"q.weight": torch.ones(3, 4).bfloat16()})
    with AdapterReader(tmp_path, base) as reader:
        found = inspect_model(reader, base)
        assert found.digest == model_digest(base)
        assert found.delta is not None
        assert found.delta.changed == 12
        assert found.delta.norm == pytest.approx(math.sqrt(12) * 4e-9, rel=1e-6)


def test_another_base() -> None:
    with pytest.raises(SchemaMismatch):
        inspect_model(MemoryReader(model()), MemoryReader({"w": torch.ones(1)}))
