from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import knots as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption
from weft.merging.methods.knots import Knots

DIAGONALS = ([3.0, 1.0], [4.0, -2.0])
"""[D_1 D_2][D_1 D_2]^T = diag(25, 5), so U = I and V_i' = D_i."""


def merged(method: Knots, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def diagonals() -> list[Tensor]:
    return [torch.diag(torch.tensor(values, dtype=torch.float64)) for values in DIAGONALS]


def close(found: Tensor, expected: list[list[float]]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Signs of (7, -1): the mean of 3 and 4, and -2 alone.
    close(merged(Knots(density=1, scale=1), diagonals()), [[3.5, 0.0], [0.0, -2.0]])
    close(merged(Knots(density=1), diagonals()), [[2.1, 0.0], [0.0, -1.2]])


def test_the_threshold_is_that_of_ties() -> None:
    # A fifth of four is none: the fourth smallest magnitude is the threshold, and is kept.
    close(merged(Knots(scale=1), diagonals()), [[3.5, 0.0], [0.0, 0.0]])
    # A quarter of four is one: the third smallest is the threshold, so two are kept.
    close(merged(Knots(density=0.25, scale=1), diagonals()), [[3.5, 0.0], [0.0, -2.0]])


def test_weights_vote_and_average() -> None:
    # 3 * 1 - 1 * 2 > 0 elects the first; (3 * 3 + 4) / 4.
    close(merged(Knots(density=1, scale=1), diagonals(), 3.0, 1.0), [[3.25, 0.0], [0.0, 1.0]])


def test_in_the_common_basis_it_is_not_plain_ties() -> None:
    # Both write along (1, 1) only: k = 1, and the second, negative there, is outvoted.
    direction = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    one = direction @ torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)
    two = direction @ torch.tensor([[-1.0, 1.0, 4.0]], dtype=torch.float64)
    found = merged(Knots(density=1, scale=1), [one, two])
    close(found, [[3.0, 1.0, 3.0], [3.0, 1.0, 3.0]])


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 1.1]])
def test_as_the_reference(rank: int | None, density: float, weights: list[float]) -> None:
    base, models = some_models(1, 3, rank)
    method = Knots(density=density, scale=0.7)
    expected = reference.merge(
        base, models, weights=weights, density=density, scale=0.7, averaged=AVERAGED
    )
    assert_same(merge_models(method, base, models, weights), expected)


def test_equal_contributions_are_their_trimmed_mean() -> None:
    base, models = some_models(2, 1)
    once = merge_models(Knots(), base, models, [1.0])
    thrice = merge_models(Knots(), base, models * 3, [0.2, 5.0, 1.0])
    assert_same(once, thrice)


def test_one_contribution_untrimmed_is_itself() -> None:
    base, models = some_models(3, 1)
    assert_same(merge_models(Knots(density=1, scale=1), base, models, [4.0]), models[0])


def test_what_cancels_leaves_nothing() -> None:
    one = some_models(4, 1)[1][0]["tall.weight"]
    assert not merged(Knots(), [one, -one]).any()


def test_directions_below_the_floor_are_left_out() -> None:
    deltas = [torch.diag(torch.tensor([1.0, 1e-3], dtype=torch.float64))]
    close(merged(Knots(density=1, scale=1, floor=1e-2), deltas), [[1.0, 0.0], [0.0, 0.0]])
    assert not merged(Knots(density=1, scale=1, floor=2.0), deltas).any()


def test_a_table_can_be_said_to_be_one() -> None:
    base, models = some_models(5, 2)
    averaged = merge_models(Knots(tables="weight"), base, models, [1.0, 1.0])
    mean = {name: (models[0][name] + models[1][name]) / 2 for name in base}
    assert_same(averaged, mean)


@pytest.mark.parametrize(
    "options", [{"density": 0.0}, {"density": 1.1}, {"floor": -1e-9}, {"scale": float("nan")}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"knots: {next(iter(options))} is"):
        Knots(**options)
