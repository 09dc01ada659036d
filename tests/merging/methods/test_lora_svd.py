from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import lora_svd as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.factors import LowRank
from weft.merging.method import Facts
from weft.merging.methods.lora_svd import LoraSvd


def diagonals() -> list[Tensor]:
    return [torch.diag(torch.tensor(values).double()) for values in ([4.0, 0.0], [0.0, 2.0])]


def merged(method: LoraSvd, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(found: Tensor, expected: list[list[float]]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # The mean is diag(2, 1); the largest rank that comes in is one.
    close(merged(LoraSvd(), diagonals()), [[2.0, 0.0], [0.0, 0.0]])
    close(merged(LoraSvd(rank=2), diagonals()), [[2.0, 0.0], [0.0, 1.0]])
    # The weighted sum is diag(4, 6), the mean diag(1, 1.5).
    close(merged(LoraSvd(combine="sum"), diagonals(), 1.0, 3.0), [[0.0, 0.0], [0.0, 6.0]])
    close(merged(LoraSvd(), diagonals(), 1.0, 3.0), [[0.0, 0.0], [0.0, 1.5]])


@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("rank", [1, 2, 3, 9])
@pytest.mark.parametrize("inputs", [None, 2])
def test_as_the_reference(combine: str, rank: int, inputs: int | None) -> None:
    base, models = some_models(1, 3, inputs)
    weights = [0.3, 2.0, 1.1]
    expected = reference.merge(
        base, models, weights=weights, rank=rank, combine=combine, averaged=AVERAGED
    )
    found = merge_models(LoraSvd(rank=rank, combine=combine), base, models, weights)
    assert_same(found, expected)


def test_the_default_rank_is_the_largest_that_comes_in() -> None:
    base, models = some_models(2, 3, rank=2)
    expected = reference.merge(
        base, models, weights=[1, 1, 1], rank=2, combine="mean", averaged=AVERAGED
    )
    assert_same(merge_models(LoraSvd(), base, models, [1.0] * 3), expected)


def test_adapters_of_unlike_rank() -> None:
    narrow = LowRank(torch.tensor([[1.0], [0.0], [0.0]]).double(), torch.eye(3)[:1].double())
    wide = LowRank(torch.eye(3)[:, 1:].double() * 5, torch.eye(3)[1:].double())
    facts = [Facts(contribution="a"), Facts(contribution="b")]
    result = LoraSvd().merge_factors("fc.weight", [narrow, wide], facts)
    assert result.rank == 2
    expected = torch.diag(torch.tensor([0.0, 2.5, 2.5])).double()
    torch.testing.assert_close(result.dense(), expected, rtol=0, atol=1e-12)


def test_full_rank_is_the_mean_exactly_as_said() -> None:
    base, models = some_models(3, 4)
    mean = {name: sum(m[name] for m in models) / 4 for name in base}
    found = merge_models(LoraSvd(rank=99), base, models, [1.0] * 4)
    for name in base:
        torch.testing.assert_close(found[name], torch.as_tensor(mean[name]), rtol=0, atol=1e-12)


def test_when_one_is_given_back() -> None:
    assert LoraSvd().gives_back_one
    assert not LoraSvd(rank=2).gives_back_one
    assert not LoraSvd(combine="sum").gives_back_one
    # Also where the smallest singular value is below the numerical rank.
    delta = torch.diag(torch.tensor([1.0, 1e-12]).double())
    assert torch.equal(merged(LoraSvd(), [delta], 0.3), delta)


def test_a_mean_needs_weights_that_sum_to_more_than_zero() -> None:
    with pytest.raises(CannotMerge, match=r"'fc.weight': the weights of 2 contributions sum"):
        merged(LoraSvd(), diagonals(), 1.0, -1.0)
    close(merged(LoraSvd(combine="sum"), diagonals(), 1.0, -1.0), [[4.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("options", [{"rank": -1}, {"rank": 1.5}, {"combine": "median"}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"lora_svd: {next(iter(options))} is"):
        LoraSvd(**options)
