from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import dc_merge as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, NonFinite
from weft.merging.methods.dc_merge import DcMerge


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def merged(method: DcMerge, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, matrix(*rows), rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Of each the leading direction: 4 e1 e1 and 6 e2 e2; the bases are the axes.
    deltas = [matrix([4.0, 0.0], [0.0, 1.0]), matrix([1.0, 0.0], [0.0, 6.0])]
    close(merged(DcMerge(), deltas), [4.0, 0.0], [0.0, 6.0])
    close(merged(DcMerge(scale=0.5), deltas), [2.0, 0.0], [0.0, 3.0])


def test_the_mask_by_hand() -> None:
    # Left vectors e1 and (3, 4) / 5, whose nearest orthonormal pair is (3, -1) and (1, 3),
    # over sqrt 10. In it, M_1 = [12 0; 4 0] and M_2 = [0 6; 0 18], over sqrt 10, so the
    # blocks that stay are 12 and 18.
    deltas = [matrix([4.0, 0.0], [0.0, 0.0]), matrix([0.0, 3.6], [0.0, 4.8])]
    close(merged(DcMerge(density=1), deltas), [3.6, 1.8], [-1.2, 5.4])


def test_smoothing_by_hand() -> None:
    one = [matrix([9.0, 0.0], [0.0, 1.0])]
    close(merged(DcMerge(density=1), one), [9.0, 0.0], [0.0, 1.0])
    close(merged(DcMerge(density=1, smoothing="mean"), one), [5.0, 0.0], [0.0, 5.0])
    # Shares 5 and 1 of 10; from 9 on, the ratio that there is.
    linear = DcMerge(density=1, smoothing="linear")
    close(merged(linear, one), [50 / 6, 0.0], [0.0, 10 / 6])
    steep = DcMerge(density=1, smoothing="linear", ratio=100.0)
    close(merged(steep, one), [9.0, 0.0], [0.0, 1.0])


def test_weights_vote_and_average() -> None:
    # Either direction is e1, so a basis of one column covers both, shared out by half:
    # M is 3/2 or -1 at every place, and the two places off the diagonal are masked.
    deltas = [matrix([3.0, 0.0], [0.0, 0.0]), matrix([-2.0, 0.0], [0.0, 0.0])]
    close(merged(DcMerge(density=1), deltas, 1.0, 2.0), [-1.0, 0.0], [0.0, 0.0])
    close(merged(DcMerge(density=1), deltas, 3.0, 1.0), [1.5, 0.0], [0.0, 0.0])
    deltas[1] = matrix([7.0, 0.0], [0.0, 0.0])
    close(merged(DcMerge(density=1), deltas, 3.0, 1.0), [2.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize("inputs", [None, 2])
@pytest.mark.parametrize("smoothing", ["none", "mean", "linear"])
@pytest.mark.parametrize("density", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.4, 1.7]])
def test_as_the_reference(
    inputs: int | None, smoothing: str, density: float, weights: list[float]
) -> None:
    base, models = some_models(1, 2, inputs)
    expected = reference.merge(
        base,
        models,
        weights=weights,
        rank=2,
        density=density,
        smoothing=smoothing,
        ratio=1.5,
        scale=0.8,
        averaged=AVERAGED,
    )
    method = DcMerge(rank=2, density=density, smoothing=smoothing, ratio=1.5, scale=0.8)
    assert_same(merge_models(method, base, models, weights), expected)


@pytest.mark.parametrize("count", [2, 3])
def test_the_default_rank_as_the_reference(count: int) -> None:
    base, models = some_models(2, count)
    expected = reference.merge(
        base,
        models,
        weights=[1.0] * count,
        rank=0,
        density=0.2,
        smoothing="none",
        ratio=5.0,
        scale=1.0,
        averaged=AVERAGED,
    )
    found = merge_models(DcMerge(density=0.2), base, models, [1.0] * count)
    assert_same(found, expected)


def test_more_contributions_than_directions() -> None:
    deltas = [model["tall.weight"] for model in some_models(3, 9)[1]]
    found = merged(DcMerge(density=1), deltas)
    assert bool(found.isfinite().all())
    assert bool(found.any())


def test_a_contribution_that_did_not_move_changes_little() -> None:
    delta = some_models(4, 1)[1][0]["wide.weight"]
    method = DcMerge(rank=2, density=1)
    alone = merged(method, [delta])
    beside = merged(method, [delta, torch.zeros_like(delta)])
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-12)


def test_what_is_not_finite_is_refused() -> None:
    deltas = [torch.eye(3).double(), torch.eye(3).double()]
    deltas[0][1, 1] = torch.nan
    with pytest.raises(NonFinite, match=r"node-0, tensor 'fc.weight': nan found, expected finite"):
        merged(DcMerge(), deltas)


@pytest.mark.parametrize(
    "options",
    [{"rank": -1}, {"density": 0.0}, {"density": 2}, {"smoothing": "some"}, {"ratio": 0.5}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"dc_merge: {next(iter(options))} is"):
        DcMerge(**options)
