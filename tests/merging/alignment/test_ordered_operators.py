"""Operators that follow the order of one axis: units on the others are free, on it they are not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.merging.alignment.zoo import prepared, shuffled, tensors_of
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.tracing import trace

PLACES, CHANNELS = 1, 2


def backwards(value: Tensor, at: int) -> Tensor:
    return torch.arange(value.shape[at]).flip(0)


OPERATORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "roll": lambda value, at: torch.roll(value, 1, at),
    "flip": lambda value, at: value.flip(at),
    "sort": lambda value, at: value.sort(dim=at).values,
    "topk": lambda value, at: value.topk(value.shape[at], dim=at).values,
    "cumsum": lambda value, at: value.cumsum(at),
    "index_select": lambda value, at: value.index_select(at, backwards(value, at)),
    "index": lambda value, at: value[(slice(None),) * at + (backwards(value, at),)],
    "max": lambda value, at: value - value.max(dim=at, keepdim=True).values,
    "select": lambda value, at: value - value.select(at, 1).unsqueeze(at),
    "unbind": lambda value, at: torch.stack(value.unbind(at)[::-1], at),
    "slice": lambda value, at: value - value[(slice(None),) * at + (slice(None, None, 2),)].sum(),
}  # fmt: skip


class Between(nn.Module):
    """A layer, an operator on (samples, places, channels), a layer."""

    def __init__(self, operator: Callable[[Tensor, int], Tensor], at: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2)
        self.operator, self.at = operator, at

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.two(torch.tanh(self.operator(self.one(values), self.at)))
        return result


@pytest.mark.parametrize("name", OPERATORS)
def test_over_places_the_channels_are_free(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = prepared(Between(OPERATORS[name], PLACES)), torch.randn(2, 5, 3)
    traced = trace(model, (inputs,), {})
    groups, tensors = groups_of(traced), tensors_of(model)
    assert traced.unruled == frozenset()
    assert [group.size for group in groups.groups] == [8]
    moved = shuffled(groups, 1).applied(tensors)
    with torch.no_grad():
        before = model(inputs)
        after = torch.func.functional_call(model, moved, (inputs,))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_over_channels_they_are_fixed_because_of_it(name: str) -> None:
    model, inputs = Between(OPERATORS[name], CHANNELS).eval(), torch.randn(2, 5, 3)
    groups = groups_of(trace(model, (inputs,), {}))
    assert groups.groups == ()
    why = {line.why for line in groups.fixed if (line.tensor, line.axis) == ("one.weight", 0)}
    assert why == {f"read in order by {name}"}
