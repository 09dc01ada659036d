"""Examples as batches of one size, of any form; what cannot be matched."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from weft.merging.errors import CannotAlign
from weft.node.trainer import Batch
from weft.simulations.engines.aligner import (
    POSITION,
    Aligner,
    Alignment,
    Merge,
    even_batches,
    examples,
)
from weft.simulations.engines.fleet import Fleet
from weft.simulations.errors import BadModel


class Given:
    """Calibrates with what it is given."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def calibration(self) -> Iterator[Batch]:
        return iter(self.batches)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        raise NotImplementedError


class Scaled(nn.Module):
    """Called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, values: Tensor, scale: Tensor) -> Tensor:
        result: Tensor = self.two(torch.relu(self.one(values))) * scale
        return result


class Choosy(nn.Module):
    """Looks at values to decide what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 4)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.one(values)
        return result if values.sum() > 0 else -result


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [2]), (64, [64]), (200, [64] * 3)])
def test_batches_are_of_one_size(count: int, sizes: list[int]) -> None:
    whole = {POSITION: torch.arange(count * 2).reshape(count, 2)}
    found = even_batches(whole)
    assert [len(batch[POSITION]) for batch in found] == sizes
    assert torch.equal(torch.cat([b[POSITION] for b in found]), whole[POSITION][: sum(sizes)])


@pytest.mark.parametrize("most", [1, 5, 6, 7, 12, 100])
def test_only_so_many_examples_are_looked_at(most: int) -> None:
    rows = torch.randn(18, 3)
    trainer = Given([rows[:6], (rows[6:12],), [rows[12:], torch.zeros(6)]])
    assert torch.equal(examples(trainer, most)[POSITION], rows[:most])


def test_without_examples_there_is_nothing_to_match_on() -> None:
    with pytest.raises(BadModel, match="Given: found no calibration"):
        examples(Given([]), 5)


def merged(of: type[nn.Module], batch: Batch) -> float:
    """The share that moved of one of two models that are drawn."""
    torch.manual_seed(0)
    fleet = Fleet.of([of(), of()], range(2))
    how = Alignment(by="activations", samples=32)
    aligner = Aligner(of(), fleet, {0: Given([batch])}, how)
    row, moved = aligner.merged(Merge(node=0, anchor=0, terms=((0, 0.5), (1, 0.5))))
    assert row.shape == fleet.parameters[0].shape
    return moved


def test_models_that_are_called_by_keyword_are_matched() -> None:
    torch.manual_seed(1)
    batch = {"values": torch.randn(32, 3), "scale": torch.ones(32, 1)}
    assert merged(Scaled, batch) in (0.0, 0.5, 0.75, 1.0)


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(CannotAlign, match=r"Choosy cannot be traced.*align = 'none'"):
        merged(Choosy, torch.randn(32, 3))
