import pytest
import torch

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import multi_slerp as reference
from weft.merging.errors import BadOption
from weft.merging.method import Facts
from weft.merging.methods.multi_slerp import MultiSlerp
from weft.merging.methods.slerp import Slerp


def coefficients(points: list[list[float]], weights: list[float] | None = None) -> list[float]:
    rows = torch.tensor(points, dtype=torch.float64)
    weights = weights or [1.0] * len(points)
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    return MultiSlerp().coefficients(rows @ rows.T, facts)


def test_by_hand() -> None:
    # Directions (1, 0) and (0, 1) with shares 0.6 and 0.8 over 1.4: the mean direction is
    # (0.6, 0.8), the mean length (0.6 * 3 + 0.8 * 5) / 1.4 = 5.8 / 1.4.
    found = coefficients([[3.0, 0.0], [0.0, 5.0]], [0.6, 0.8])
    length = 5.8 / 1.4
    assert found == pytest.approx([0.6 * length / 3, 0.8 * length / 5])


def test_a_zero_vector_shortens_and_does_not_turn() -> None:
    assert coefficients([[4.0, 0.0], [0.0, 0.0]]) == [0.5, 0.0]
    assert coefficients([[0.0], [0.0]]) == [0.5, 0.5]


def test_directions_that_cancel_out_are_averaged() -> None:
    assert coefficients([[1.0, 0.0], [-3.0, 0.0]]) == [0.5, 0.5]
    triangle = [[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]
    assert coefficients(triangle) == pytest.approx([1 / 3] * 3)
    # Not those that only nearly do.
    near = coefficients([[1.0, 0.0], [-1.0, 1e-3]])
    assert near == pytest.approx([1000.0, 1000.0], rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_as_the_reference(count: int) -> None:
    base, models = random_models(count, count)
    weights = [0.5 + 0.3 * index for index in range(count)]
    found = merged_model(MultiSlerp(), base, models, weights)
    assert_same_models(found, reference.merge(base, models, weights=weights))


def test_of_two_of_one_length_it_is_slerp() -> None:
    base, models = random_models(9, 2)
    for model in models:
        for name, start in base.items():
            delta = model[name] - start
            model[name] = start + delta / delta.norm()
    del base["scale"]
    assert_same_models(
        merged_model(MultiSlerp(), base, models), merged_model(Slerp(t=0.5), base, models)
    )


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(BadOption, match="n1: weight -1"):
        coefficients([[1.0], [2.0]], [2.0, -1.0])
