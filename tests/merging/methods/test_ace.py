from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import ace as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite, OutOfBound
from weft.merging.methods.ace import Ace

ONE = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
"""Its covariance is diag(2, 0)."""


def merged(method: Ace, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # A is diag(2 + 18 + 2, 2) plus the row (10, 0); B is (2 + 1) ONE + 3 (18 + 1) ONE.
    method = Ace(regularisation=1.0, heterogeneity=10.0)
    close(merged(method, [ONE, 3 * ONE]), ONE * (60 / 32))
    close(merged(Ace(regularisation=1.0, heterogeneity=10.0, scale=0.5), [ONE]), ONE * 1.5 / 4)


def test_traces_that_differ_by_hand() -> None:
    # Normalised: A is diag(1 + 1 + 1, 1) plus (0.1, 0), B is (1 + 0.9) ONE + 3 (1 + 0.1) ONE,
    # so 5.2 / 3.1. The residual is (1 + 3) ONE - 4 * 1.5 ONE, and all of it has rank one.
    deltas = [ONE, 3 * ONE]
    solved = 5.2 / 3.1
    close(merged(Ace(regularisation=1.8, share=0.5), deltas), ONE * (solved + solved - 2))
    close(merged(Ace(regularisation=1.8, share=0.4), deltas), ONE * solved)


def test_when_traces_differ() -> None:
    # Of ln 2 and ln 18, the variance is 0.752 of the squared mean.
    deltas = [ONE, 3 * ONE]
    above, below = (Ace(heterogeneity=gamma) for gamma in (0.76, 0.75))
    assert float((merged(above, deltas) - merged(below, deltas)).abs().max()) > 0.01
    close(merged(above, deltas), merged(Ace(heterogeneity=100.0), deltas))
    close(merged(below, deltas), merged(Ace(heterogeneity=0.0), deltas))
    # One alone cannot differ.
    close(merged(Ace(heterogeneity=0.0), [ONE]), merged(Ace(heterogeneity=100.0), [ONE]))


def test_weights_count_contributions() -> None:
    deltas = [model["tall.weight"] for model in some_models(1, 2)[1]]
    method = Ace(heterogeneity=100.0)
    twice = merged(method, [deltas[0], deltas[0], deltas[1]])
    close(merged(method, deltas, 2.0, 1.0), twice)
    close(merged(method, deltas, 0.5, 0.25), twice)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, 0.9]])
@pytest.mark.parametrize("regularisation", [1e-2, 1.0])
@pytest.mark.parametrize("heterogeneity", [0.0, 100.0])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_as_the_reference(
    weights: list[float], regularisation: float, heterogeneity: float, share: float
) -> None:
    base, models = some_models(1, 3)
    options: dict[str, Any] = {
        "regularisation": regularisation,
        "heterogeneity": heterogeneity,
        "share": share,
        "scale": 0.7,
    }
    expected = reference.merge(base, models, weights=weights, averaged=AVERAGED, **options)
    assert_same(merge_models(Ace(**options), base, models, weights), expected)


@pytest.mark.parametrize("sizes", [(1e-6, 1e-6), (1e-6, 1e-3), (3e-4, 3e-4), (1e-3, 1.0), (1, 30)])
@pytest.mark.parametrize("heterogeneity", [0.0, 100.0])
def test_precision_whatever_the_size(sizes: tuple[float, float], heterogeneity: float) -> None:
    generator = torch.Generator().manual_seed(2)
    deltas = [torch.randn(40, 30, generator=generator).double() * size for size in sizes]
    arrays = [delta.numpy() for delta in deltas]
    expected = torch.from_numpy(reference.ace(arrays, np.ones(2), 1e-2, heterogeneity, 0.3))
    found = merged(Ace(heterogeneity=heterogeneity), deltas)
    assert float((found - expected).norm() / expected.norm()) < 1e-9


def test_who_says_nothing_of_inputs_is_left_out() -> None:
    deltas = [model["tall.weight"] for model in some_models(3, 2)[1]]
    alike = torch.ones(7, 1, dtype=torch.float64) @ torch.tensor([[1.0, 2.0, 0.5, 0.25]]).double()
    for gamma in (0.0, 100.0):
        method = Ace(heterogeneity=gamma)
        close(merged(method, [*deltas, torch.zeros_like(alike)]), merged(method, deltas))
        close(merged(method, [*deltas, alike]), merged(method, deltas))
        assert not merged(method, [alike]).any()


def test_the_state_is_what_the_docstring_says() -> None:
    # A row, four scalars of three limbs or two, and a count are small.
    exact = Ace().state_bytes("fc.weight", (200, 300))
    per_element = 16 + 24 + 16 + 16
    assert 0 <= exact - (per_element * 200 + 32 * 300) * 300 <= 16 * 300 + 200


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(CannotMerge, match=r"the weights of 2 contributions sum to -1"):
        merged(Ace(), [ONE, ONE], 1.0, -2.0)
    with pytest.raises(OutOfBound, match=r"node-0, tensor 'fc.weight': 10000 is beyond the bound"):
        merged(Ace(), [ONE * 1e4])
    assert bool(merged(Ace(bound=2.0**20), [ONE * 1e4]).any())
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': inf found"):
        merged(Ace(), [ONE, torch.full((2, 2), torch.inf, dtype=torch.float64)])


@pytest.mark.parametrize(
    "options", [{"regularisation": 0.0}, {"heterogeneity": -1.0}, {"share": 2}, {"bound": 5.0}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"ace: {next(iter(options))} is"):
        Ace(**options)
