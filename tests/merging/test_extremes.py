import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.merging.errors import NonFinite, NotRemovable
from weft.merging.extremes import Max, Min
from weft.merging.monoids import Cell, Field

finite = st.floats(allow_nan=False, allow_infinity=False)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def folded(field: Field, values: list[float]) -> Cell:
    cell = field.zero((1,))
    for value in values:
        field.combine(cell, field.element(doubles(value), "x"), "x")
    return cell


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=8))
def test_extremes_are_those_of_python_in_any_order(values: list[float]) -> None:
    for field, expected in ((Max(), max(values)), (Min(), min(values))):
        there, back = folded(field, values), folded(field, values[::-1])
        assert field.value(there).item() == expected
        assert torch.equal(there.values.view(torch.int64), back.values.view(torch.int64))


@pytest.mark.parametrize("field", [Max(), Min()])
@pytest.mark.parametrize("order", [[0.0, -0.0], [-0.0, 0.0]])
def test_the_sign_of_zero_does_not_depend_on_order(field: Field, order: list[float]) -> None:
    assert math.copysign(1.0, field.value(folded(field, order)).item()) == 1.0


@pytest.mark.parametrize("field", [Max(), Min()])
def test_twice_is_once(field: Field) -> None:
    assert torch.equal(folded(field, [1.0, 2.0]).values, folded(field, [1.0, 2.0, 2.0]).values)


def test_nothing_is_neutral() -> None:
    assert Max().value(Max().zero((2,))).tolist() == [-math.inf, -math.inf]
    assert Min().value(Min().zero((2,))).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("field", [Max(), Min()])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(field: Field, value: float) -> None:
    with pytest.raises(NonFinite, match="found, expected finite numbers"):
        field.element(doubles(0.0, value), "x")


@pytest.mark.parametrize("field", [Max(), Min()])
def test_nothing_can_be_removed(field: Field) -> None:
    cell = folded(field, [1.0])
    with pytest.raises(NotRemovable, match="cannot take a contribution back"):
        field.subtract(cell, field.element(doubles(1.0), "x"), "x")
    assert not field.removable
    assert cell.values.item() == 1.0


def test_values_and_addends_are_copies() -> None:
    field, addend = Max(), doubles(3.0)
    cell = field.element(addend, "x")
    field.value(cell).zero_()
    cell.values.add_(1)
    assert (cell.values.item(), addend.item()) == (4.0, 3.0)
