from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import tsv_m as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.methods.tsv_m import TsvM


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def merged(method: TsvM, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, matrix(*rows), rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Of each the leading direction: 4 e1 e1 and 6 e2 e2.
    deltas = [matrix([4.0, 0.0], [0.0, 1.0]), matrix([1.0, 0.0], [0.0, 6.0])]
    close(merged(TsvM(), deltas), [4.0, 0.0], [0.0, 6.0])
    close(merged(TsvM(scale=0.5), deltas), [2.0, 0.0], [0.0, 3.0])
    # Weights of 1.5 and 0.5, and of 3 and -1.
    close(merged(TsvM(), deltas, 3.0, 1.0), [6.0, 0.0], [0.0, 3.0])
    close(merged(TsvM(), deltas, 1.5, -0.5), [12.0, 0.0], [0.0, -6.0])


def test_directions_that_overlap_by_hand() -> None:
    # Left vectors e1 and (3, 4) / 5, whose nearest orthonormal pair is (3, -1) and (1, 3),
    # over sqrt 10; right vectors e1 and e2; values 4 and 6.
    deltas = [matrix([4.0, 0.0], [0.0, 0.0]), matrix([0.0, 3.6], [0.0, 4.8])]
    root = 10**0.5
    close(merged(TsvM(), deltas), [12 / root, 6 / root], [-4 / root, 18 / root])


def test_directions_that_coincide_share_their_strength() -> None:
    # Of two columns e1 the polar factor is 1/sqrt 2 in each, on both sides: (2 + 4) / 2.
    deltas = [matrix([2.0, 0.0], [0.0, 0.0]), matrix([4.0, 0.0], [0.0, 0.0])]
    close(merged(TsvM(), deltas), [3.0, 0.0], [0.0, 0.0])


def test_a_budget_leaves_room() -> None:
    delta = matrix([4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0])
    close(merged(TsvM(budget=3), [delta]), [4.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3)
    assert not TsvM(budget=2).gives_back_one
    assert TsvM(budget=1).gives_back_one
    close(merged(TsvM(budget=1), [delta]), *delta.tolist())


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, 0.9], [2.0, -0.5, 1.0]])
@pytest.mark.parametrize(("budget", "rank"), [(0, None), (1, None), (2, None), (4, None), (0, 2)])
def test_as_the_reference(weights: list[float], budget: int, rank: int | None) -> None:
    base, models = some_models(1, 3, rank)
    expected = reference.merge(
        base, models, weights=weights, budget=budget, scale=0.7, averaged=AVERAGED
    )
    assert_same(merge_models(TsvM(budget=budget, scale=0.7), base, models, weights), expected)


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40)], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_larger_as_the_reference(shape: tuple[int, int], count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    deltas = [torch.randn(shape, generator=generator).double() * 1e-4 for _ in range(count)]
    expected = torch.from_numpy(reference.tsv_m([d.numpy() for d in deltas], 24 // count))
    found = merged(TsvM(), deltas)
    assert float((found - expected).norm() / expected.norm()) < 1e-9


def test_more_contributions_than_directions() -> None:
    _, models = some_models(3, 9)
    found = merged(TsvM(), [model["wide.weight"] for model in models])
    assert bool(found.isfinite().all())
    assert bool(found.any())


def test_a_contribution_that_did_not_move_takes_room_only() -> None:
    delta = matrix([4.0, 0.0], [0.0, 2.0])
    close(merged(TsvM(), [delta, torch.zeros_like(delta)]), [4.0, 0.0], [0.0, 0.0])


def test_what_cannot_be_merged_is_refused() -> None:
    delta = matrix([4.0, 0.0], [0.0, 2.0])
    with pytest.raises(CannotMerge, match=r"the weights of 2 contributions sum to -1"):
        merged(TsvM(), [delta, delta], 1.0, -2.0)
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': nan found, expected finite"):
        merged(TsvM(), [delta, delta * torch.nan])


@pytest.mark.parametrize("options", [{"budget": -1}, {"budget": 1.5}, {"scale": None}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"tsv_m: {next(iter(options))} is"):
        TsvM(**options)
