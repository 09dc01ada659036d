"""Decisions about the period: the band, the lead, one change at a time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topology.built import built
from weft.topology.adaptive import Announcement, Band, check_announced, decide
from weft.topology.errors import BadOption

BAND = Band(target=1.0, hysteresis=1.0, lead=4, shortest=1, longest=16)
START = [Announcement(0, 4)]


@pytest.mark.parametrize(
    ("distance", "period"),
    [(2.1, 2), (100.0, 2), (0.49, 8), (0.0, 8), (2.0, None), (0.5, None), (1.0, None)],
)
def test_the_period_halves_above_the_band_and_doubles_below(
    distance: float, period: int | None
) -> None:
    expected = None if period is None else Announcement(14, period)
    assert decide(BAND, START, 10, distance) == expected


@pytest.mark.parametrize(("period", "distance"), [(1, 9.0), (16, 0.01)])
def test_at_its_limits_it_stays(period: int, distance: float) -> None:
    assert decide(BAND, [Announcement(0, period)], 40, distance) is None


def test_nothing_new_before_the_last_change_was_in_effect_for_a_period() -> None:
    announced = [*START, Announcement(14, 2)]
    assert [decide(BAND, announced, round, 9.0) for round in (10, 13, 14, 15)] == [None] * 4
    assert decide(BAND, announced, 16, 9.0) == Announcement(20, 1)


@pytest.mark.parametrize("distance", [-1.0, math.nan, math.inf])
def test_what_is_no_distance_is_refused(distance: float) -> None:
    with pytest.raises(BadOption, match="consensus distance: found"):
        decide(BAND, START, 10, distance)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 4))
def test_a_distance_that_grows_with_the_period_settles(scale: float, power: int) -> None:
    """The distance is proportional to the period: no flapping, whatever the start."""
    announced = [Announcement(0, 2**power)]
    for round in range(400):
        made = decide(BAND, announced, round, scale * announced[-1].period)
        if made is not None:
            assert made.from_round >= round + BAND.lead
            announced.append(made)
    changes = [each.period for each in announced]
    assert changes in (sorted(changes), sorted(changes, reverse=True))
    assert announced[-1].from_round < 200
    check_announced(announced)


def test_announcements_must_rise() -> None:
    with pytest.raises(BadOption, match="found round 5 after 5, expected rising rounds"):
        check_announced([Announcement(5, 1), Announcement(5, 2)])
    with pytest.raises(BadOption, match="option period: found 0"):
        check_announced([Announcement(5, 0)])


@pytest.mark.parametrize(
    ("name", "value"), [("target", 0.0), ("hysteresis", 0.3), ("lead", 0), ("longest", 0)]
)
def test_bands_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(BadOption, match=f"option {name}: found"):
        built("ring", 4, schedule="adaptive", when={name: value})


def test_the_schedule_follows_what_was_announced() -> None:
    announced = [Announcement(6, 3), Announcement(12, 1)]
    schedule = built("ring", 4, schedule="adaptive", when={"k": 2}, announced=announced)
    assert [round for round in range(16) if schedule.mixes(round)] == [
        1,
        3,
        5,
        8,
        11,
        12,
        13,
        14,
        15,
    ]
    assert schedule.period is None


def test_without_an_announcement_the_last_period_holds_for_ever() -> None:
    schedule = built("ring", 4, schedule="adaptive", when={"k": 5})
    assert [round for round in range(30) if schedule.mixes(round)] == [4, 9, 14, 19, 24, 29]
    assert schedule.period == 5
    later = built("ring", 4, schedule="adaptive", announced=[Announcement(10, 7)])
    assert later.mixes(16 + 7 * 1000)


def test_a_graph_of_several_steps_goes_on_where_it_was() -> None:
    announced = [Announcement(4, 3)]
    schedule = built(
        "one_peer_exponential", 8, schedule="adaptive", when={"k": 2}, announced=announced
    )
    steps = built("one_peer_exponential", 8)
    rounds = [round for round in range(16) if schedule.mixes(round)]
    for step, round in enumerate(rounds):
        assert schedule.mixing(round) == steps.mixing(step)
