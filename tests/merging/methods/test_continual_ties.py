from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import continual_ties as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, NonFinite
from weft.merging.method import Facts
from weft.merging.methods.continual_ties import ContinualTies


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def merged(method: ContinualTies, *deltas: Tensor, weights: list[float] | None = None) -> Any:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights)).tolist()


def test_by_hand() -> None:
    half = ContinualTies(density=0.5)
    one, two = row(8.0, -6.0, 2.0, 4.0), row(-1.0, -5.0, 7.0, 3.0)
    assert merged(half, one) == [4.0, -3.0, 1.0, 2.0]
    # Two of four stay: those from the second smallest on, which leaves three with k = 2.
    # M: 4, -3, 0, 2; D: 0, -5, 7, 3; all agree, so half of 4, -8, 7, 5 is added.
    assert merged(half, one, two) == [6.0, -7.0, 4.5, 4.5]
    # Against each other the larger side stays: 4 - 9 < 0, 1 is trimmed.
    assert merged(half, row(8.0, 2.0), row(-9.0, 1.0)) == [-0.5, 2.0]


def test_what_cancels_adds_nothing_and_ties_stay() -> None:
    method = ContinualTies(density=0.5)
    assert merged(method, row(8.0, 2.0), row(-4.0, 4.0)) == [4.0, 3.5]


def test_weights_scale_and_order_matters() -> None:
    whole = ContinualTies(density=1.0, scale=1.0)
    one, two = row(1.0, 2.0), row(4.0, -8.0)
    assert merged(whole, one, two, weights=[1.0, 0.5]) == [4.0, -2.0]
    assert merged(whole, two, one, weights=[0.5, 1.0]) == [5.0, -8.0]
    assert merged(whole, one, one, weights=[1.0, -1.0]) == [1.0, 2.0]


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, -1.7, 0.9]])
def test_as_the_reference(density: float, weights: list[float]) -> None:
    base, models = some_models(1, 3)
    expected = reference.merge(base, models, weights=weights, density=density, scale=0.5)
    assert_same(merge_models(ContinualTies(density=density), base, models, weights), expected)


def test_a_stream_can_be_taken_up_again() -> None:
    method = ContinualTies()
    deltas = [model["wide.weight"] for model in some_models(2, 3)[1]]
    state = method.init("w", (5, 9), None)
    for delta in deltas[:2]:
        state = method.absorb("w", state, delta, Facts(contribution="a"))
    stored = {name: tensor.clone() for name, tensor in state.items()}
    one, two = (method.absorb("w", s, deltas[2], Facts(contribution="b")) for s in (state, stored))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert int(one["count"]) == 3


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(NonFinite, match="node-1, tensor 'w': nan found, expected finite"):
        merged(ContinualTies(), row(1.0, 2.0), row(1.0, torch.nan))


@pytest.mark.parametrize("options", [{"density": 0.0}, {"density": 2.0}, {"scale": "1"}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"continual_ties: {next(iter(options))} is"):
        ContinualTies(**options)
