"""What a stream keeps of a training that started from a head: the task vector by itself."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from weft.checkpoints.artifacts import put_delta
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.store import Store
from weft.node.continual.kept import VectorReader

LONG = 700_001
"""More than two chunks of float32, and no whole number of them."""


def model() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "long": torch.randn(LONG, generator=generator),
        "wide": torch.randn(300, 7, dtype=torch.float64, generator=generator),
    }


@pytest.mark.parametrize("name", ["long", "wide"])
@pytest.mark.parametrize(
    ("first", "step"), [(0, LONG), (17, 262_143), (262_144, 99_999), (0, 1000)]
)
def test_any_range_of_a_task_vector(name: str, first: int, step: int, tmp_path: Path) -> None:
    base = model()
    tuned = {key: value + 1.5 for key, value in base.items()}
    store = Store(tmp_path / "store")
    head = MemoryReader(base)
    digest = put_delta(store, MemoryReader(tuned), head, "0" * 64, "raw")
    expected = (tuned[name] - base[name]).reshape(-1).double()
    first = min(first, expected.numel() - 1)
    with VectorReader(store.payload(digest), head) as reader:
        ranges = reader.delta_ranges(name, first, expected.numel(), step, torch.float64)
        assert torch.equal(torch.cat([block.clone() for block in ranges]), expected[first:])
