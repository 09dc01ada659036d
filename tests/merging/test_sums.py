import math
from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.merging.errors import (
    BadOption,
    CannotMerge,
    FoldFull,
    NonFinite,
    NotRemovable,
    OutOfBound,
)
from weft.merging.monoids import Cell, scalar
from weft.merging.sums import Count, Sum

BOUND = 4096.0
UNIT = 2.0**-39
addends = st.floats(-BOUND, BOUND)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def total(field: Sum, values: list[float]) -> Cell:
    cell = field.zero((1,))
    for value in values:
        field.combine(cell, field.element(doubles(value), "x"), "x")
    return cell


def test_the_unit_is_the_bound_over_two_to_the_51() -> None:
    assert Sum().unit() == UNIT
    assert Sum(bound=1.0).unit() == 2.0**-51
    assert Sum(bound=2.0**48, limbs=2).unit(1) == 2.0**-43


@settings(deadline=None)
@given(addends)
def test_an_addend_is_rounded_once_to_the_nearest_unit_ties_to_even(value: float) -> None:
    cell = Sum().element(doubles(value), "x")
    # Fraction is exact, and its round() takes ties to even.
    assert int(cell.values.item()) == round(Fraction(value) / Fraction(UNIT))
    assert cell.reach == abs(int(cell.values.item()))


@pytest.mark.parametrize(
    ("halves", "units"), [(1, 0), (3, 2), (5, 2), (7, 4), (-1, 0), (-3, -2), (-5, -2), (2, 1)]
)
def test_ties_go_to_even(halves: int, units: int) -> None:
    assert Sum().element(doubles(halves * UNIT / 2), "x").values.item() == units


@settings(deadline=None)
@given(st.lists(addends, max_size=8), st.randoms())
def test_any_order_is_the_exact_sum_of_the_rounded_addends(
    values: list[float], random: Random
) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    one, two = total(Sum(), values), total(Sum(), shuffled)
    exact = sum(round(Fraction(value) / Fraction(UNIT)) for value in values)
    assert int(one.values.item()) == int(two.values.item()) == exact
    assert one.reach == two.reach
    assert Sum().value(one).item() == float(exact * Fraction(UNIT))


@settings(deadline=None)
@given(st.lists(addends, min_size=1, max_size=8), addends)
def test_subtracting_gives_the_cell_back(values: list[float], more: float) -> None:
    field = Sum()
    before = total(field, values)
    cell = Cell(before.values.clone(), before.reach)
    element = field.element(doubles(more), "x")
    field.combine(cell, element, "x")
    field.subtract(cell, element, "x")
    assert torch.equal(cell.values, before.values)
    assert cell.reach == before.reach


def test_plain_floats_would_not_pass_these_laws() -> None:
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    assert total(Sum(), [0.1, 0.2, 0.3]) == total(Sum(), [0.3, 0.2, 0.1])


@settings(deadline=None)
@given(st.floats(-(2.0**48), 2.0**48))
def test_a_second_limb_resolves_forty_bits_more(value: float) -> None:
    field = Sum(bound=2.0**48, limbs=2)
    got = Fraction(field.value(field.element(doubles(value), "x")).item())
    # Half a unit of the second limb, and the rounding of the value to a double.
    error = Fraction(2.0**-44) + Fraction(math.ulp(value)) / 2
    assert abs(got - Fraction(value)) <= error


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**48), 2.0**48), min_size=2, max_size=6))
def test_limbs_keep_the_laws(values: list[float]) -> None:
    field = Sum(bound=2.0**48, limbs=2)
    there, back = total(field, values), total(field, values[::-1])
    assert torch.equal(there.values, back.values)
    element = field.element(doubles(values[0]), "x")
    field.subtract(there, element, "x")
    assert torch.equal(there.values, total(field, values[1:]).values)


@pytest.mark.parametrize("bound", [2.0**-400, 1.0, BOUND, 2.0**400])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_bound_itself_is_held_and_what_is_beyond_is_not(bound: float, sign: float) -> None:
    field = Sum(bound=bound)
    assert field.value(field.element(doubles(sign * bound), "x")).item() == sign * bound
    for beyond in (bound * (1 + 2.0**-40), bound * 1e6, 1.7e308):
        with pytest.raises(OutOfBound):
            field.element(doubles(0.0, sign * beyond), "x")


@pytest.mark.parametrize("bound", [2.0**-400, 1.0, BOUND, 2.0**400])
@pytest.mark.parametrize("limbs", [1, 2])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(bound: float, limbs: int, value: float) -> None:
    with pytest.raises(NonFinite, match="expected finite numbers"):
        Sum(bound=bound, limbs=limbs).element(doubles(0.0, 0.5 * bound, value), "x")


def test_the_message_names_who_what_and_the_bound() -> None:
    with pytest.raises(
        OutOfBound,
        match=r"^node-2, tensor 'w': 5000.25 is beyond the bound 4096 of exact sums",
    ):
        Sum().element(doubles(1, 2, 3, 5000.25), "node-2, tensor 'w'")


def test_4095_addends_of_full_bound_fit_and_no_more() -> None:
    field = Sum()
    cell = field.zero((2,))
    element = field.element(doubles(BOUND, -BOUND), "x")
    for _ in range(4095):
        field.combine(cell, element, "x")
    assert field.value(cell).tolist() == [4095 * BOUND, -4095 * BOUND]
    before = cell.values.clone()
    with pytest.raises(FoldFull, match="x: adding it could overflow"):
        field.combine(cell, element, "x")
    assert torch.equal(cell.values, before)
    field.subtract(cell, element, "x")
    field.combine(cell, element, "x")
    assert torch.equal(cell.values, before)


def test_small_addends_are_limited_by_their_size_not_their_number() -> None:
    field = Sum()
    cell = field.zero((1,))
    element = field.element(doubles(0.01), "x")
    for _ in range(10_000):
        field.combine(cell, element, "x")
    assert field.value(cell).item() == pytest.approx(100.0, abs=10_000 * UNIT)


def test_removing_more_than_was_added_is_refused() -> None:
    field = Sum()
    cell = total(field, [1.0])
    with pytest.raises(NotRemovable, match="never added"):
        field.subtract(cell, field.element(doubles(2.0), "x"), "x")
    assert field.value(cell).item() == 1.0


def test_shapes_are_not_broadcast() -> None:
    field = Sum()
    with pytest.raises(CannotMerge, match=r"shape \(1, 1\) does not fit a state of shape \(1, 3\)"):
        field.combine(field.zero((3,)), field.element(doubles(1.0), "x"), "x")


def test_addends_are_not_modified_and_narrower_floats_are_taken() -> None:
    addend = torch.tensor([0.5, -0.25], dtype=torch.float32)
    field = Sum()
    assert field.value(field.element(addend, "x")).tolist() == [0.5, -0.25]
    assert addend.tolist() == [0.5, -0.25]
    wide = doubles(0.1)
    field.element(wide, "x")
    assert wide.item() == 0.1


def test_empty_and_scalar_shapes() -> None:
    field = Sum()
    assert field.element(torch.empty(0, dtype=torch.float64), "x").reach == 0
    one = Sum(extent=scalar)
    assert one.zero((5, 5)).values.shape == (1,)
    assert one.value(one.element(torch.tensor(2.5, dtype=torch.float64), "x")).item() == 2.5


def test_state_bytes() -> None:
    assert Sum().state_bytes((10, 3)) == 240
    assert Sum(limbs=2).state_bytes((10, 3)) == 480
    assert Sum(extent=scalar).state_bytes((10, 3)) == 8
    assert Count().state_bytes((10, 3)) == 120


@pytest.mark.parametrize("bound", [0.0, -1.0, 3.0, math.inf, math.nan, 2.0**-401, 2.0**401])
def test_only_powers_of_two_are_bounds(bound: float) -> None:
    with pytest.raises(BadOption, match="expected a"):
        Sum(bound=bound)


def test_limbs_are_few() -> None:
    with pytest.raises(BadOption, match="limbs is 0"):
        Sum(limbs=0)


def test_counting() -> None:
    field = Count()
    cell = field.zero((3,))
    field.combine(cell, field.element(torch.tensor([True, False, True]), "x"), "x")
    field.combine(cell, field.element(torch.tensor([2, 0, -1]), "x"), "x")
    assert field.value(cell).tolist() == [3.0, 0.0, 0.0]
    assert cell.reach == 3
    field.subtract(cell, field.element(torch.tensor([2, 0, -1]), "x"), "x")
    assert field.value(cell).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(TypeError, match="integers or booleans"):
        field.element(doubles(1.0), "x")


def test_a_count_does_not_wrap() -> None:
    field = Count()
    cell = field.zero((1,))
    with pytest.raises(FoldFull):
        field.combine(cell, field.element(torch.tensor([2**31]), "x"), "x")
    assert cell.values.item() == 0
