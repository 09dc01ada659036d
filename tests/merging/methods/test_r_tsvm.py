from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import r_tsvm as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.method import Method
from weft.merging.methods.r_tsvm import RTsvm
from weft.merging.methods.tsv_m import TsvM


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def merged(method: Method, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, matrix(*rows), rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # 3 is 2.25 from the mean, with a deviation of 1.30, so it counts as an outlier, and so
    # does 4: columns weigh 4/3 where there is one, 2/3 where only the other has one.
    deltas = [matrix([3.0, 0.0], [0.0, 0.0]), matrix([0.0, 0.0], [0.0, 4.0])]
    close(merged(RTsvm(outlier=1.0), deltas), [4.0, 0.0], [0.0, 16 / 3])
    close(merged(RTsvm(outlier=1.8), deltas), [3.0, 0.0], [0.0, 4.0])


def test_sparse_layers_keep_less() -> None:
    dense = torch.ones(4, 4, dtype=torch.float64) + torch.eye(4)
    sparse = dense * torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=torch.float64)

    def rank(method: RTsvm, delta: Tensor) -> int:
        return int(torch.linalg.matrix_rank(merged(method, [delta, torch.zeros_like(delta)])))

    method = RTsvm(density=0.5)
    # All of the first, none of the second: half of the elements, of an expected half, so
    # each keeps the 2 of 4 directions that it has room for.
    assert rank(method, dense) == 2
    assert rank(method, sparse) == 1
    assert rank(RTsvm(density=0.25), dense) == 4
    assert rank(RTsvm(density=0.25, zero=3.0), dense) == 1


def test_without_outliers_and_zeros_it_is_tsv_m() -> None:
    _, models = some_models(1, 2)
    deltas = [model["tall.weight"] for model in models]
    torch.testing.assert_close(
        merged(RTsvm(outlier=100.0), deltas), merged(TsvM(), deltas), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.4, 1.7], [2.0, -0.5]])
@pytest.mark.parametrize(("outlier", "zero", "density"), [(1.5, 0.3, 0.8), (0.7, 0.0, 1.0)])
def test_as_the_reference(
    weights: list[float], outlier: float, zero: float, density: float
) -> None:
    base, models = some_models(1, 2)
    expected = reference.merge(
        base,
        models,
        weights=weights,
        outlier=outlier,
        zero=zero,
        density=density,
        scale=0.7,
        averaged=AVERAGED,
    )
    method = RTsvm(outlier=outlier, zero=zero, density=density, scale=0.7)
    assert_same(merge_models(method, base, models, weights), expected)


def test_one_is_given_back_unless_there_is_room_for_more() -> None:
    delta = matrix([4.0, 0.0], [0.0, 0.5])
    close(merged(RTsvm(density=0.5), [delta]), [4.0, 0.0], [0.0, 0.5])
    assert not RTsvm(scale=0.5).gives_back_one
    assert not RTsvm(budget=2).gives_back_one
    close(merged(RTsvm(budget=2), [delta]), [4.0, 0.0], [0.0, 0.0])


def test_what_cannot_be_merged_is_refused() -> None:
    delta = matrix([4.0, 0.0], [0.0, 2.0])
    with pytest.raises(CannotMerge, match=r"the weights of 2 contributions sum to -1"):
        merged(RTsvm(), [delta, delta], 1.0, -2.0)
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': nan found, expected finite"):
        merged(RTsvm(), [delta, delta * torch.nan])


@pytest.mark.parametrize(
    "options",
    [{"outlier": 0.0}, {"zero": -1.0}, {"density": 0.0}, {"density": 1.5}, {"budget": -1}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"r_tsvm: {next(iter(options))} is"):
        RTsvm(**options)
