"""Scales of units leave a network's function, and two networks are brought to one scale."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.merging.alignment.zoo import ZOO, prepared, shown, shuffled, tensors_of
from weft.merging.alignment.activations import matched
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.observation import observed
from weft.merging.alignment.scales import (
    Scalable,
    Scales,
    balanced,
    scalables_of,
    scales_by_activations,
    scales_by_weights,
)
from weft.merging.alignment.strands import rewritten
from weft.merging.alignment.tracing import Traced, trace

UNITS = {
    "mlp": 9,  # those before tanh are not
    "cnn": 6 + 8 + 10,
    "resnet-20": (4 + 8 + 16) + 3 * (4 + 8 + 16),
    "resnet-50": 8 + 2 * (4 + 4),
    "mobilenet": 8,  # relu6 and hardswish know a scale
    "vit": 2 * 24,  # both norms' weights; a head's three share one weight, which is not
    # The last norm; queries against keys, values against what reads them.
    "bert": 24 + 24 + 24,
    # Five norms; values; the ungated half of the nets.
    "llama": 5 * 24 + 2 * 48 + 2 * 12,
    # The last norm is read by the table of words, which is the first layer too.
    "llama, tied": 4 * 24 + 2 * 48 + 2 * 24,
    "u-net": 6 + 5 + 7,
}


def drawn(traced: Traced, seed: int) -> Scales:
    """Scales of everything, between about a tenth and ten."""
    groups = groups_of(traced)
    generator = torch.Generator().manual_seed(seed)
    factors = {
        each: torch.randn(each.shape, generator=generator).double().exp()
        for each in scalables_of(traced, groups)
    }
    return Scales(groups, factors)


@pytest.mark.parametrize("name", ZOO)
def test_any_scale_leaves_the_function(name: str) -> None:
    model, inputs, traced = shown(name)
    tensors = tensors_of(model)
    scaled = drawn(traced, 1).applied(tensors)
    assert any(not torch.equal(scaled[key], tensors[key]) for key in tensors)
    with torch.no_grad():
        before = model(*inputs)
        after = torch.func.functional_call(model, scaled, inputs)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * before.abs().max())


@pytest.mark.parametrize("name", ZOO)
def test_as_many_scales_as_by_hand(name: str) -> None:
    scales = drawn(shown(name)[2], 1)
    assert sum(each.group.units for each in scales.factors) == UNITS[name]


def test_units_before_tanh_are_not_offered_and_rightly_so() -> None:
    model, inputs, traced = shown("mlp")
    second = next(group for group in groups_of(traced).groups if group.name == "3.weight[0]")
    assert all(each.group.name != second.name for each in drawn(traced, 1).factors)
    forced = Scalable(
        group=second,
        tensors={"3.weight": {0: 1}, "3.bias": {0: 1}, "5.weight": {1: -1}},
        values=frozenset(),
    )
    scales = Scales(groups_of(traced), {forced: torch.full((7,), 2.0).double()})
    with torch.no_grad():
        before = model(*inputs)
        after = torch.func.functional_call(model, scales.applied(tensors_of(model)), inputs)
    assert not torch.allclose(before, after, rtol=1e-2, atol=1e-2 * before.abs().max())


class ByChannel(nn.Module):
    """A convolution by channel between two rectifiers, and a stream that is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deep = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.inner, self.out = nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.deep(torch.relu(self.enter(images))))
        hidden = torch.relu(hidden + self.inner(hidden))
        result: Tensor = self.out(hidden.mean((2, 3)))
        return result


def test_a_convolution_by_channel_has_scales_before_and_after() -> None:
    torch.manual_seed(0)
    model, inputs = prepared(ByChannel()), (torch.randn(3, 3, 6, 6),)
    traced = trace(model, inputs, {})
    scales = drawn(traced, 2)
    assert [each.shape for each in scales.factors] == [(6,), (6,)]
    tensors = tensors_of(model)
    scaled = scales.applied(tensors)
    with torch.no_grad():
        after = torch.func.functional_call(model, scaled, inputs)
        assert torch.allclose(model(*inputs), after, rtol=1e-4, atol=1e-5)
    # Rows and columns of `inner` are the same units.
    found = scales_by_weights(scales.groups, list(scales.factors), tensors, scaled).applied(scaled)
    assert all(torch.allclose(found[key], tensors[key], rtol=1e-4, atol=1e-6) for key in tensors)


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (torch.relu, True),
    "doubled": (lambda hidden: hidden + hidden, True),
    "halved": (lambda hidden: torch.relu(hidden / 2 * 3), True),
    "a number more": (lambda hidden: torch.relu(hidden + 1), False),
    "rounded": (lambda hidden: torch.div(hidden, 0.1, rounding_mode="floor"), False),
    "one over it": (lambda hidden: 1 / (hidden.abs() + hidden.abs()), False),
    "by its own sum": (lambda hidden: hidden / hidden.abs().sum(-1, keepdim=True), False),
    "clamped": (lambda hidden: hidden.clamp(0, 1), False),
    "padded with zeros": (lambda hidden: nn.functional.pad(hidden, (0, 0, 1, 1))[1:-1], True),
    "padded with ones": (lambda hidden: nn.functional.pad(hidden, (0, 0, 1, 1), value=1.0), False),
    "over itself": (lambda hidden: torch.relu(hidden) / (hidden * hidden + 1), False),
}


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.change = nn.Linear(4, 5), nn.Linear(5, 3), change

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.two(self.change(self.one(values)))
        return found


@pytest.mark.parametrize("name", CHANGES)
def test_what_passes_a_scale_on(name: str) -> None:
    """Whatever is offered leaves the function; what does not pass a scale on is not offered."""
    torch.manual_seed(0)
    change, passes = CHANGES[name]
    model, inputs = prepared(Between(change)), (torch.randn(6, 4),)
    scales = drawn(trace(model, inputs, {}), 1)
    assert bool(scales.factors) is passes
    with torch.no_grad():
        after = torch.func.functional_call(model, scales.applied(tensors_of(model)), inputs)
        assert torch.allclose(model(*inputs), after, rtol=1e-4, atol=1e-5)


def test_a_square_has_twice_the_power_and_is_left_out() -> None:
    model, inputs = prepared(Between(lambda hidden: hidden * hidden)), (torch.randn(6, 4),)
    assert drawn(trace(model, inputs, {}), 1).factors == {}


@pytest.mark.parametrize("name", ZOO)
def test_weights_bring_the_scale_back(name: str) -> None:
    model, _, traced = shown(name)
    tensors, scales = tensors_of(model), drawn(traced, 3)
    other = scales.applied(tensors)
    back = scales_by_weights(scales.groups, list(scales.factors), tensors, other).applied(other)
    assert all(torch.allclose(back[key], tensors[key], rtol=1e-4, atol=1e-6) for key in tensors)


def test_a_balanced_network_has_the_least_squares_of_all() -> None:
    model, _, traced = shown("cnn")
    scales, tensors = drawn(traced, 4), tensors_of(model)
    least = balanced(scales.groups, list(scales.factors), tensors).applied(tensors)
    total = sum(float(tensor.square().sum()) for tensor in least.values())
    for seed in range(5):
        near = {each: factors**0.05 for each, factors in drawn(traced, seed).factors.items()}
        scalables = dict(zip(scales.factors, near.values(), strict=True))
        other = Scales(scales.groups, scalables).applied(least)
        assert sum(float(tensor.square().sum()) for tensor in other.values()) > total


@pytest.mark.parametrize("how", ["weights", "activations"])
@pytest.mark.parametrize("name", ["cnn", "resnet-20"])
def test_another_order_and_another_scale_merge_as_if_there_were_none(name: str, how: str) -> None:
    model, inputs, traced = shown(name)
    scales, tensors = drawn(traced, 5), tensors_of(model)
    groups, scalables = scales.groups, list(scales.factors)
    other = shuffled(groups, 5).applied(scales.applied(tensors))
    torch.manual_seed(3)
    batches = [ZOO[name].inputs() for _ in range(30)]
    seen = observed(traced, groups, tensors, [other], batches)[0]
    permutation = matched(groups, seen, tensors, other)
    ordered = permutation.applied(other)
    found = (
        scales_by_weights(groups, scalables, tensors, ordered)
        if how == "weights"
        else scales_by_activations(groups, scalables, seen, permutation)
    )
    with torch.no_grad():
        wanted = model(*inputs)
        error, without = (
            float((torch.func.functional_call(model, _mean(tensors, each), inputs) - wanted)
                  .abs().max())
            for each in (found.applied(ordered), ordered)
        )  # fmt: skip
    assert error <= 1e-3 * float(wanted.abs().max())
    assert error * 50 < without


def test_tensors_taken_apart_are_put_together_again() -> None:
    for name in ZOO:
        model, _, traced = shown(name)
        for key, layout in traced.tensors.items():
            tensor = tensors_of(model).get(key)
            if tensor is not None:
                same = rewritten(traced.axes, tensor, layout, lambda piece, *_: piece, tensor.shape)
                assert torch.equal(same, tensor)


def _mean(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: (one[key] + other[key]) / 2 if one[key].is_floating_point() else one[key]
        for key in one
    }
