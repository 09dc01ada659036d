import pytest
import torch

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import model_stock as reference
from weft.merging.method import Facts, Need
from weft.merging.methods.model_stock import ModelStock


def coefficients(*points: list[float], weights: list[float] | None = None) -> list[float]:
    rows = torch.tensor(points, dtype=torch.float64)
    weights = weights or [1.0] * len(points)
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    return ModelStock().coefficients(rows @ rows.T, facts)


def test_by_hand() -> None:
    # A cosine of 3/5: t = 2 * 0.6 / 1.6 = 0.75, half of it each.
    assert coefficients([2.0, 0.0], [3.0, 4.0]) == pytest.approx([0.375, 0.375])
    # Cosines 0.6, 0.8, 0 average to 7/15: t = (21/15) / (29/15) = 21/29.
    found = coefficients([1.0, 0.0], [3.0, 4.0], [0.0, 7.0])
    assert found == pytest.approx([7 / 29] * 3)


def test_those_that_agree_are_averaged_whatever_their_lengths_and_weights() -> None:
    assert coefficients([1.0, 1.0], [5.0, 5.0], weights=[1.0, 9.0]) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    "points",
    [
        [[1.0, 0.0], [0.0, 1.0]],
        [[1.0, 0.0], [-1.0, 1.0]],
        [[1.0, 0.0], [-1.0, 0.0]],
        [[1.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
    ],
    ids=str,
)
def test_those_that_have_nothing_in_common_leave_the_base(points: list[list[float]]) -> None:
    assert coefficients(*points) == [0.0, 0.0]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_as_the_reference(count: int) -> None:
    base, models = random_models(count, count, common=0.1)
    found = merged_model(ModelStock(), base, models)
    assert_same_models(found, reference.merge(base, models))


def test_it_lies_between_base_and_mean() -> None:
    for seed in range(20):
        base, models = random_models(seed, 3)
        found = merged_model(ModelStock(), base, models)
        for name, start in base.items():
            mean = torch.stack([model[name] for model in models]).mean(0) - start
            share = float(((found[name] - start) * mean).sum() / mean.square().sum())
            assert -1e-9 <= share <= 1 + 1e-9


def test_needs_a_base() -> None:
    assert Need.BASE in ModelStock.needs
