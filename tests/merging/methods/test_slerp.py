import math

import pytest
import torch

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import slerp as reference
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts
from weft.merging.methods.slerp import Slerp

NAMES = [Facts(contribution="a"), Facts(contribution="b")]


def coefficients(method: Slerp, *rows: list[float]) -> list[float]:
    points = torch.tensor(rows, dtype=torch.float64)
    return method.coefficients(points @ points.T, NAMES)


def test_by_hand() -> None:
    # A right angle: at the middle both count sin 45 / sin 90; at a third, sin 60 and sin 30.
    assert coefficients(Slerp(), [3.0, 0.0], [0.0, 5.0]) == pytest.approx([0.5**0.5] * 2)
    third = coefficients(Slerp(t=1 / 3), [3.0, 0.0], [0.0, 5.0])
    assert third == pytest.approx([0.75**0.5, 0.5])


def test_ends_are_the_contributions() -> None:
    assert coefficients(Slerp(t=0), [1.0, 2.0], [3.0, 1.0]) == [1.0, 0.0]
    assert coefficients(Slerp(t=1), [1.0, 2.0], [3.0, 1.0]) == [0.0, 1.0]


@pytest.mark.parametrize(
    "second", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.03], [-1.0, 0.03]], ids=str
)
def test_near_parallels_and_zeros_are_mixed_on_a_straight_line(second: list[float]) -> None:
    assert coefficients(Slerp(t=0.25), [1.0, 0.0], second) == [0.75, 0.25]


def test_just_outside_the_limit_it_is_an_arc() -> None:
    angle = math.acos(0.9994)
    found = coefficients(Slerp(), [1.0, 0.0], [math.cos(angle), math.sin(angle)])
    assert found == pytest.approx([0.5 / math.cos(angle / 2)] * 2)
    assert found[0] > 0.50005


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
def test_as_the_reference(t: float) -> None:
    base, models = random_models(1, 2)
    found = merged_model(Slerp(t=t), base, models)
    assert_same_models(found, reference.merge(base, models, t=t))


def test_equal_lengths_keep_their_length() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.nn.functional.normalize(torch.randn((2, 9), generator=generator).double())
    for t in (0.1, 0.5, 0.8):
        found = Slerp(t=t).coefficients(points @ points.T, NAMES)
        assert float((torch.tensor(found).double() @ points).norm()) == pytest.approx(1.0)


def test_order_is_the_one_given() -> None:
    base, models = random_models(3, 2)
    one = merged_model(Slerp(t=0.3), base, models)
    two = merged_model(Slerp(t=0.7), base, models[::-1])
    assert_same_models(one, two)
    assert not torch.allclose(
        one["fc.weight"], merged_model(Slerp(t=0.3), base, models[::-1])["fc.weight"]
    )


def test_more_than_two_are_refused() -> None:
    base, models = random_models(4, 3)
    with pytest.raises(CannotMerge, match=r"3 contributions .* multi_slerp takes any number"):
        merged_model(Slerp(), base, models)
    assert_same_models(
        merged_model(Slerp(), base, models, [1.0, 0.0, 9.0]),
        merged_model(Slerp(), base, [models[0], models[2]]),
    )


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_bad_options(t: float) -> None:
    with pytest.raises(BadOption, match="t is"):
        Slerp(t=t)
