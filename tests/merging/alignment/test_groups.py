"""Every order of every group leaves a network's function as it was, and no unit is forgotten."""

import pytest
import torch
from torch import nn

from tests.merging.alignment.zoo import ZOO, images, shown, shuffled, tensors_of
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.tracing import trace
from weft.merging.errors import CannotAlign


@pytest.mark.parametrize("name", ZOO)
def test_any_order_leaves_the_function(name: str) -> None:
    model, inputs, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    moved = shuffled(groups, 1).applied(tensors)
    assert any(not torch.equal(moved[key], tensors[key]) for key in tensors)
    with torch.no_grad():
        before = model(*inputs)
        after = torch.func.functional_call(model, moved, inputs)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * before.abs().max())


@pytest.mark.parametrize("name", ZOO)
def test_as_many_units_as_by_hand(name: str) -> None:
    groups = groups_of(shown(name)[2])
    assert sum(group.units for group in groups.groups) == ZOO[name].units


@pytest.mark.parametrize("name", ZOO)
def test_a_wrong_order_is_seen(name: str) -> None:
    """The law can fail: units of one tensor alone, moved, change the function."""
    model, inputs, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    wide = max(groups.groups, key=lambda group: group.units)
    permutation = shuffled(groups, 1)
    spoilt = {key: permutation.tensor(tensors[key], groups.layouts[key])
              for key in wide.tensors[:1]}  # fmt: skip
    with torch.no_grad():
        before = model(*inputs)
        after = torch.func.functional_call(model, {**tensors, **spoilt}, inputs)
    assert not torch.allclose(before, after, rtol=1e-2, atol=1e-3 * before.abs().max())


def test_an_operator_without_a_rule_is_named_and_keeps_its_units() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            hidden = torch.fft.rfft(self.one(values)).abs().sum(-1, keepdim=True)
            result: torch.Tensor = self.three(torch.relu(self.two(self.one(values) * hidden)))
            return result

    traced = trace(Odd(), (torch.randn(3, 4),), {})
    assert traced.unruled == {"fft_rfft"}
    groups = groups_of(traced)
    assert [(group.name, group.size) for group in groups.groups] == [("two.weight[0]", 6)]
    assert {
        line.why for line in groups.fixed if line.tensor == "one.weight" and line.axis == 0
    } == {"read in order by fft_rfft"}


def test_a_model_that_cannot_be_traced_is_refused_in_one_sentence() -> None:
    class Forked(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values * 2 if values.sum() > 0 else values

    with pytest.raises(CannotAlign, match="Forked cannot be traced") as caught:
        trace(Forked(), (torch.randn(3),), {})
    assert "\n" not in str(caught.value)


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = ZOO["resnet-20"].build().train()
    before = tensors_of(model)
    trace(model, images(), {})
    assert model.training
    after = tensors_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
