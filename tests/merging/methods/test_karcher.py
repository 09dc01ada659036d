import math

import pytest
import torch

from tests.merging.models import merged_model, random_models
from tests.references import karcher as reference
from weft.merging.errors import BadOption
from weft.merging.method import Facts
from weft.merging.methods.karcher import Karcher


def coefficients(
    points: list[list[float]], weights: list[float] | None = None, method: Karcher | None = None
) -> list[float]:
    rows = torch.tensor(points, dtype=torch.float64)
    weights = weights or [1.0] * len(points)
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    return (method or Karcher()).coefficients(rows @ rows.T, facts)


def on_circle(*degrees: float) -> list[list[float]]:
    return [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]


def angle_of(points: list[list[float]], found: list[float]) -> float:
    x, y = (torch.tensor(found).double() @ torch.tensor(points).double()).tolist()
    return math.degrees(math.atan2(y, x))


def test_on_a_circle_it_is_the_mean_angle() -> None:
    points = on_circle(0, 10, 80)
    assert angle_of(points, coefficients(points)) == pytest.approx(30)
    # The mean direction is elsewhere: this is not multi-SLERP.
    assert angle_of(points, [1.0, 1.0, 1.0]) == pytest.approx(28.22, abs=0.01)
    assert angle_of(points, coefficients(points, [1.0, 1.0, 2.0])) == pytest.approx(42.5)


def test_the_length_is_the_weighted_mean() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).double()
    found = coefficients(rows.tolist(), [1.0, 3.0])
    assert float((torch.tensor(found).double() @ rows).norm()) == pytest.approx(4.5)


def test_a_zero_vector_shortens_and_does_not_turn() -> None:
    assert coefficients([[4.0, 0.0], [0.0, 0.0]]) == pytest.approx([0.5, 0.0])
    assert coefficients([[0.0], [0.0]]) == [0.5, 0.5]


def test_directions_that_cancel_out_are_averaged() -> None:
    assert coefficients([[1.0, 0.0], [-3.0, 0.0]]) == [0.5, 0.5]
    assert coefficients(on_circle(0, 120, 240)) == pytest.approx([1 / 3] * 3)


def test_one_right_opposite_pulls_nowhere() -> None:
    found = coefficients([[1.0, 0.0], [-1.0, 0.0]], [3.0, 1.0])
    assert found[0] - found[1] == pytest.approx(1.0)


def test_copies_are_given_back() -> None:
    found = coefficients([[1.0, 2.0, 3.0]] * 4)
    assert sum(found) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_as_the_reference(count: int) -> None:
    base, models = random_models(count, count, common=0.05)
    del base["scale"]
    weights = [1.0 + 0.5 * index for index in range(count)]
    found = merged_model(Karcher(tolerance=0), base, models, weights)
    expected = reference.merge(base, models, weights=weights)
    for name, tensor in expected.items():
        # The minimiser of the reference is that exact and no more.
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


def test_at_the_mean_the_tangents_balance() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn((5, 40), generator=generator, dtype=torch.float64) + 0.5
    mean = torch.tensor(coefficients(rows.tolist())).double() @ rows
    mean = mean / mean.norm()
    total = torch.zeros(40, dtype=torch.float64)
    for row in rows:
        unit = row / row.norm()
        angle = math.acos(float(unit @ mean))
        total += angle / math.sin(angle) * (unit - (unit @ mean) * mean)
    assert float(total.norm()) < 1e-6


def test_iterations_are_a_limit() -> None:
    points = on_circle(0, 10, 80)
    one = coefficients(points, method=Karcher(iterations=1))
    assert 28.23 < angle_of(points, one) < 30
    assert coefficients(points, method=Karcher(tolerance=10)) != one


@pytest.mark.parametrize(
    ("options", "found"), [({"iterations": 0}, "iterations is 0"), ({"tolerance": -1.0}, "tol")]
)
def test_bad_options(options: dict[str, float], found: str) -> None:
    with pytest.raises(BadOption, match=found):
        Karcher(**options)  # type: ignore[arg-type]
