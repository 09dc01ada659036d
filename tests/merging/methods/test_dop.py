from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import dop as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, NonFinite
from weft.merging.method import Facts
from weft.merging.methods.dop import Dop

ONE = Facts(contribution="one")


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def merged(method: Dop, *deltas: Tensor, weights: list[float] | None = None) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights))


def close(found: Tensor, expected: Tensor, bound: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def test_by_hand() -> None:
    # From the middle, diag(2, 1). M = diag(4, 0) counts at (0, 0) alone, with a gradient of
    # 2 * 2 * 16 * -2, D = diag(0, 2) at (1, 1), with 2 * 2 * 4 * -1. The first step of Adam
    # is the rate, against the sign.
    one, two = matrix([4.0, 0.0], [0.0, 0.0]), matrix([0.0, 0.0], [0.0, 2.0])
    step = Dop(steps=1, rate=0.25)
    close(merged(step, one, two), matrix([2.25, 0.0], [0.0, 1.25]), 1e-8)
    close(merged(Dop(steps=0), one, two), matrix([2.0, 0.0], [0.0, 1.0]))
    close(merged(Dop(steps=0), one, two, weights=[1.0, -2.0]), matrix([2.0, 0.0], [0.0, -2.0]))
    # Held at 1, M alone counts, and the other one stays in the middle.
    close(
        merged(Dop(steps=1, rate=0.25, alpha=1.0, inertia=1.0), one, two),
        matrix([2.25, 0.0], [0.0, 1.0]),
        1e-8,
    )


def test_other_tensors_go_half_way() -> None:
    rows = [torch.tensor(values).double() for values in ([1.0, 2.0], [3.0, 4.0], [6.0, 1.0])]
    assert merged(Dop(), *rows).tolist() == [4.0, 2.0]
    assert merged(Dop(), torch.zeros(2).double(), rows[0]).tolist() == [0.5, 1.0]


def test_one_alone_and_the_same_again() -> None:
    delta = matrix([1.0, 2.0], [3.0, 5.0])
    close(merged(Dop(), delta), delta)
    close(merged(Dop(), delta, delta), delta)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, -0.9]])
@pytest.mark.parametrize("mass", [0.6, 0.99999])
@pytest.mark.parametrize("inertia", [0.9, 0.999])
@pytest.mark.parametrize("rank", [None, 1])
def test_as_the_reference(
    weights: list[float], mass: float, inertia: float, rank: int | None
) -> None:
    base, models = some_models(1, 3, rank)
    expected = reference.merge(
        base,
        models,
        weights=weights,
        alpha=0.7,
        inertia=inertia,
        mass=mass,
        steps=30,
        rate=1e-2,
        averaged=AVERAGED,
    )
    method = Dop(alpha=0.7, inertia=inertia, mass=mass, steps=30, rate=1e-2)
    found = merge_models(method, base, models, weights)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_it_ends_nearer_to_where_each_is_strong() -> None:
    one, two = matrix([4.0, 0.0], [0.0, 0.1]), matrix([0.1, 0.0], [0.0, 4.0])
    found = merged(Dop(alpha=0.5, steps=500, rate=0.01), one, two)
    assert float((found - matrix([4.0, 0.0], [0.0, 4.0])).abs().max()) < 0.05


def test_a_stream_can_be_taken_up_again() -> None:
    method = Dop(steps=5)
    deltas = [model["tall.weight"] for model in some_models(3, 3)[1]]
    state = method.init("fc.weight", (7, 4), None)
    for delta in deltas[:2]:
        state = method.absorb("fc.weight", state, delta, ONE)
    stored = {name: tensor.clone() for name, tensor in state.items()}
    one, two = (method.absorb("fc.weight", s, deltas[2], ONE) for s in (state, stored))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert int(one["count"]) == 3


def test_what_is_not_finite_is_refused() -> None:
    delta = matrix([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': nan found"):
        merged(Dop(), delta, delta * torch.nan)


@pytest.mark.parametrize(
    "options",
    [{"alpha": 1.1}, {"inertia": -0.1}, {"mass": 0.0}, {"steps": -1}, {"rate": 0.0}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"dop: {next(iter(options))} is"):
        Dop(**options)
