import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.merging.models import merged_model, random_models
from tests.references import geometric_median as reference
from weft.merging.errors import BadOption
from weft.merging.method import Extent, Facts
from weft.merging.methods.geometric_median import GeometricMedian


def coefficients(rows: Tensor, *weights: float, **options: float) -> list[float]:
    given = weights or [1.0] * len(rows)
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(given)]
    method = GeometricMedian(**options)  # type: ignore[arg-type]
    return method.coefficients(rows @ rows.T, facts)


def median(rows: Tensor, *weights: float) -> Tensor:
    return torch.tensor(coefficients(rows, *weights), dtype=torch.float64) @ rows


def points(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_by_hand() -> None:
    # The corners of a square: its middle. Three corners of an equilateral triangle: same.
    corners = points([1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0])
    assert median(corners).tolist() == pytest.approx([2.0, 2.0])
    # On a line it is the median, not the mean.
    assert median(points([1.0], [2.0], [30.0])).tolist() == pytest.approx([2.0], abs=1e-4)
    # The Fermat point of a right isosceles triangle: x = y = (3 - sqrt 3) / 6 of the legs.
    fermat = median(points([1.0, 1.0], [2.0, 1.0], [1.0, 2.0])) - 1
    assert fermat.tolist() == pytest.approx([(3 - 3**0.5) / 6] * 2)


def test_more_than_half_of_the_weight_wins_alone() -> None:
    rows = points([1.0, 0.0], [0.0, 5.0], [7.0, 7.0])
    assert median(rows, 3.0, 1.0, 1.0).tolist() == pytest.approx([1.0, 0.0], abs=1e-4)


def test_copies_and_zeros() -> None:
    assert coefficients(points([2.0], [2.0], [2.0])) == pytest.approx([1 / 3] * 3)
    assert coefficients(points([0.0], [0.0]), 1.0, 3.0) == [0.25, 0.75]
    # Two of three moved nothing: the median norm is zero, and so is the median.
    assert median(points([0.0], [0.0], [4.0])).tolist() == pytest.approx([0.0], abs=1e-4)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_as_the_reference(count: int) -> None:
    base, models = random_models(count, count)
    weights = [1.0 + 0.1 * index for index in range(count)]
    found = merged_model(GeometricMedian(), base, models, weights)
    expected = reference.merge(base, models, weights=weights)
    for name, tensor in expected.items():
        # The minimiser of the reference is that exact and no more.
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), bad=st.integers(1, 3), size=st.floats(-6, 12))
def test_fewer_than_half_cannot_carry_it_away(seed: int, bad: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((7, 30), generator=generator, dtype=torch.float64)
    honest = rows[bad:]
    centre = honest.mean(0)
    radius = float((honest - centre).norm(dim=1).max())
    rows[:bad] = rows[:bad] * 10.0**size
    share = bad / 7
    limit = 2 * (1 - share) / (1 - 2 * share) * radius
    assert float((median(rows) - centre).norm()) <= limit


def test_over_the_whole_model() -> None:
    assert GeometricMedian.span is Extent.MODEL


@pytest.mark.parametrize("options", [{"smoothing": 0.0}, {"iterations": 0}, {"tolerance": -1.0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=next(iter(options))):
        coefficients(points([1.0]), **options)
