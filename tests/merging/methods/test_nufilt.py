from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import nufilt as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.method import Facts
from weft.merging.methods.nufilt import Nufilt

ONE = Facts(contribution="one")


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def merged(method: Nufilt, *deltas: Tensor, weights: list[float] | None = None) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights))


def close(found: Tensor, expected: Tensor, bound: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def test_by_hand() -> None:
    # The leading input of M is e2: the newcomer's second column is filtered.
    one = matrix([1.0, 0.0, 0.0], [0.0, 3.0, 0.0])
    two = matrix([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    close(merged(Nufilt(rank=1), one, two), matrix([2.0, 0.0, 3.0], [4.0, 3.0, 6.0]))
    # More than M has: two of three.
    close(merged(Nufilt(), one, two), matrix([1.0, 0.0, 3.0], [0.0, 3.0, 6.0]))
    half = merged(Nufilt(rank=1), one, two, weights=[2.0, -0.5])
    close(half, matrix([1.5, 0.0, -1.5], [-2.0, 6.0, -3.0]))


def test_the_first_goes_in_whole() -> None:
    zero, delta = torch.zeros(2, 2, dtype=torch.float64), matrix([1.0, 2.0], [3.0, 4.0])
    for method in (Nufilt(), Nufilt(adapter=1)):
        close(merged(method, delta), delta)
        close(merged(method, zero, delta), delta)
        close(merged(method, delta, zero), delta)


def test_other_tensors() -> None:
    one, two = torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, -2.0]).double()
    weights = [1.0, 3.0]
    assert merged(Nufilt(), one, two, weights=weights).tolist() == [2.5, -1.0]
    assert merged(Nufilt(others="sum"), one, two, weights=weights).tolist() == [10.0, -4.0]
    assert merged(Nufilt(others="base"), one, two, weights=weights).tolist() == [0.0, 0.0]
    with pytest.raises(CannotMerge, match=r"tensor 'fc.weight': the weights of 2 contributions"):
        merged(Nufilt(), one, two, weights=[1.0, -1.0])


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, -0.9]])
@pytest.mark.parametrize("others", ["mean", "sum", "base"])
@pytest.mark.parametrize("adapter", [0, 1, 3])
@pytest.mark.parametrize("inputs", [None, 2])
def test_as_the_reference(
    weights: list[float], others: str, adapter: int, inputs: int | None
) -> None:
    base, models = some_models(1, 3, inputs)
    method = Nufilt(rank=3, adapter=adapter, own=2, steps=20, rate=0.05, others=others)
    starts = {
        name: method.start(name, start.shape[1])
        for name, start in base.items()
        if adapter and name not in AVERAGED
    }
    expected = reference.merge(
        base,
        models,
        weights=weights,
        rank=3,
        own=2,
        steps=20,
        rate=0.05,
        starts=starts,
        others=others,
        vectors=AVERAGED,
    )
    found = merge_models(method, base, models, weights)
    for name, tensor in found.items():
        # Adam divides by roots of squares: what rounds otherwise is drawn apart a little.
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6 if adapter else 1e-9)
    if not adapter:
        assert_same(found, expected)


def test_an_adapter_brings_some_of_it_back() -> None:
    _, models = some_models(2, 2)
    one, two = (model["wide.weight"] for model in models)

    def loss(method: Nufilt) -> float:
        new = merged(method, one, two)
        own = torch.linalg.svd(two)[2][:2].T
        old = torch.linalg.svd(one)[2][:3].T
        lost = ((two - new) @ own).square().sum() + ((one - new) @ old).square().sum()
        return float(lost)

    trained = Nufilt(rank=3, own=2, adapter=2, steps=200, rate=0.01)
    assert loss(trained) < 0.9 * loss(Nufilt(rank=3))


def test_the_start_follows_from_the_name_alone() -> None:
    method = Nufilt(adapter=64)
    start = method.start("fc.weight", 500)
    assert start.shape == (64, 500)
    assert torch.equal(start, method.start("fc.weight", 500))
    assert not torch.equal(start, method.start("fc2.weight", 500))
    assert float(start.mean()) == pytest.approx(0.0, abs=5e-4)
    assert float(start.std()) == pytest.approx(0.02, rel=0.02)


def test_a_stream_can_be_taken_up_again() -> None:
    method = Nufilt(rank=2, adapter=2)
    deltas = [model["tall.weight"] for model in some_models(3, 3)[1]]
    state = method.init("fc.weight", (7, 4), None)
    for delta in deltas[:2]:
        state = method.absorb("fc.weight", state, delta, ONE)
    stored = {name: tensor.clone() for name, tensor in state.items()}
    one, two = (method.absorb("fc.weight", s, deltas[2], ONE)["sum"] for s in (state, stored))
    assert torch.equal(one, two)


def test_what_is_not_finite_is_refused() -> None:
    delta = matrix([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': inf found"):
        merged(Nufilt(), delta, delta * torch.inf)


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"adapter": -1}, {"own": -1}, {"steps": 0}, {"rate": 0.0}, {"others": "x"}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"nufilt: {next(iter(options))} is"):
        Nufilt(**options)
