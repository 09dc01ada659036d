"""Numbers by layer and by name: mergekit's gradients and filters, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.cli.recipe_values import BadRecipe
from weft.cli.schedule import Piece, Rule, Schedule, read_schedule

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
numbers = st.floats(-100, 100)


def test_a_number_is_everywhere_the_same() -> None:
    schedule = Schedule.constant(0.25)
    assert schedule.is_constant
    assert schedule == read_schedule(0.25, "weight")
    assert {schedule.at("w", layer, 4) for layer in (None, 0, 1, 3)} == {0.25}


def test_anchors_are_spread_over_the_layers() -> None:
    schedule = read_schedule([0, 0.5, 1], "t")
    assert not schedule.is_constant
    found = [schedule.at(f"h.{layer}.w", layer, 5) for layer in range(5)]
    assert found == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert schedule.at(EMBEDDING, None, 5) == 0.0
    assert schedule.at(HEAD, None, 5) == 0.0
    assert schedule.at("h.0.w", 0, 1) == 1.0


def test_uneven_anchors_by_hand() -> None:
    schedule = read_schedule([0, 0.5, 0.3, 0.7, 1], "t")
    # Layer 3 of 40: 3 / 39 * 4 = 0.3077 of the way from the first anchor to the second.
    assert schedule.at("h.3.w", 3, 40) == pytest.approx(0.5 * 12 / 39)
    assert schedule.at("h.39.w", 39, 40) == 1.0


def test_the_first_filter_that_fits_counts() -> None:
    rows = [
        {"filter": "self_attn", "value": [0, 1]},
        {"filter": "attn", "value": 7},
        {"value": 0.5},
    ]
    schedule = read_schedule(rows, "t")
    assert schedule.at("h.1.self_attn.q", 1, 3) == 0.5
    assert schedule.at("h.2.self_attn.q", 2, 3) == 1.0
    assert schedule.at("h.2.attn.q", 2, 3) == 7.0
    assert schedule.at("h.2.mlp.up", 2, 3) == 0.5
    assert sorted(schedule.anchors) == [0.0, 0.5, 1.0, 7.0]


def test_a_star_fits_all() -> None:
    assert read_schedule([{"filter": "*", "value": 2}], "t") == Schedule.constant(2.0)
    assert read_schedule({"value": "1e-3"}, "t") == Schedule.constant(0.001)


def test_each_slice_has_its_own_anchors() -> None:
    schedule = Schedule((Piece((Rule((0.0, 1.0)),), 3), Piece((Rule((5.0, 7.0)),), 2)))
    found = [schedule.at(f"h.{layer}.w", layer, 5) for layer in range(5)]
    assert found == [0.0, 0.5, 1.0, 5.0, 7.0]
    assert schedule.at(EMBEDDING, None, 5) == 0.0
    assert schedule.at(HEAD, None, 5) == 5.0
    with pytest.raises(BadRecipe, match=r"tensor h\.5\.w: the recipe's slices have only 5 layers"):
        schedule.at("h.5.w", 5, 6)


@given(st.lists(numbers, min_size=1, max_size=6), st.integers(1, 40), st.data())
def test_values_lie_between_the_anchors(
    anchors: list[float], layers: int, data: st.DataObject
) -> None:
    schedule = read_schedule(anchors, "w")
    layer = data.draw(st.integers(0, layers - 1))
    found = schedule.at("w", layer, layers)
    assert min(anchors) - 1e-9 <= found <= max(anchors) + 1e-9
    if layers > 1:
        assert schedule.at("w", 0, layers) == anchors[0]
    assert schedule.at("w", layers - 1, layers) == pytest.approx(anchors[-1], abs=1e-9)


@given(numbers, st.integers(1, 9), st.integers(1, 40))
def test_equal_anchors_are_a_constant(value: float, anchors: int, layers: int) -> None:
    schedule = read_schedule([value] * anchors, "w")
    assert schedule.is_constant
    assert schedule.at("w", layers - 1, layers) == pytest.approx(value)


BAD = [
    ("half", "w: found 'half', expected a number, a list"),
    (True, "w: found True, expected a number, a list"),
    (None, "w: found None, expected a number, a list of numbers, or a list of filters and val"),
    (float("nan"), "w: found nan, expected a number, a list"),
    (10**400, "w: found "),
    ([], "w: found [], expected a number, a list"),
    ([0.5, "x"], "w: found 'x', expected a number"),
    ([0.5, {"value": 1}], "w: found {'value': 1}, expected a number"),
    ([{"value": 1}, 0.5], "w[1]: found 0.5, expected keys with values"),
    ([{"filter": "mlp"}], "w[0]: no 'value'"),
    ([{"filter": 3, "value": 1}], "w[0].filter: found 3, expected a text"),
    ([{"filtre": "mlp", "value": 1}], "w[0]: unknown key 'filtre'; did you mean 'filter'?"),
    ([{"value": []}], "w[0].value: found [], expected one number or more"),
    ([{"value": [[1]]}], "w[0].value: found [1], expected a number"),
    ([{"filter": "mlp", "value": 1}], "w: no value for tensors that no filter fits"),
]


@pytest.mark.parametrize(("value", "expected"), BAD, ids=lambda case: str(case)[:30])
def test_what_is_no_number(value: object, expected: str) -> None:
    with pytest.raises(BadRecipe) as got:
        read_schedule(value, "w")
    assert str(got.value).startswith(expected)
    assert len(str(got.value)) < 250
