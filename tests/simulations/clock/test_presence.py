"""Absences and partitions, as functions of time."""

import math

import numpy as np
import pytest

from weft.simulations.clock.presence import Absence, Churn, Partition, Presence
from weft.simulations.errors import BadOption

HALVES = Partition(groups=((0, 1),), from_s=10.0, to_s=30.0)


def absences(*intervals: tuple[float, float]) -> Presence:
    return Presence(4, [Absence(node=0, from_s=start, to_s=end) for start, end in intervals])


def test_a_step_that_an_absence_cuts_short_begins_anew() -> None:
    found = absences((5.0, 7.0), (9.0, 10.0))
    assert found.finish(0, 0.0, 5.0) == (5.0, 0.0, 0), "done just in time"
    assert found.finish(0, 0.0, 6.0) == (16.0, 5.0 + 2.0, 2)
    assert found.finish(0, 6.0, 1.0) == (8.0, 0.0, 0), "away when it was to begin"
    assert found.finish(1, 0.0, 6.0) == (6.0, 0.0, 0)


def test_absences_that_overlap_count_once() -> None:
    found = absences((5.0, 7.0), (6.0, 9.0), (20.0, 21.0))
    assert found.back(0, 5.5) == 9.0
    assert found.away_s(0, 100.0) == 5.0
    assert found.away_s(0, 6.0) == 1.0


def test_two_nodes_reach_each_other_when_nothing_is_between_them() -> None:
    found = Presence(4, [Absence(node=0, from_s=25.0, to_s=40.0)], [HALVES])
    assert found.reached(1, 2, 9.0) == 9.0
    assert found.reached(1, 2, 10.0) == 30.0
    assert found.reached(2, 3, 10.0) == 10.0, "those that no group names are one"
    assert found.reached(0, 2, 10.0) == 40.0, "the absence begins before the partition ends"
    left, right = np.array([[0, 0, 2], [1, 2, 3]], dtype=np.int32)
    assert found.apart(left, right, 12.0).tolist() == [False, True, False]
    assert found.apart(left, right, 30.0).tolist() == [True, True, False]


def test_every_change_is_announced() -> None:
    found = Presence(4, [Absence(node=0, from_s=25.0, to_s=40.0)], [HALVES])
    moments, now = [], 0.0
    while math.isfinite(now := found.next_change(now)):
        moments.append(now)
    assert moments == [10.0, 25.0, 30.0, 40.0]


def test_churn_keeps_its_means_and_its_seed() -> None:
    churn = Churn(mean_there_s=3.0, mean_away_s=1.0)
    found = Presence(50, churn=churn, seed=1)
    away = [found.away_s(node, 400.0) for node in range(50)]
    assert sum(away) / 50 == pytest.approx(100.0, rel=0.1)
    again, other = Presence(50, churn=churn, seed=1), Presence(50, churn=churn, seed=2)
    assert again.away_s(7, 100.0) == found.away_s(7, 100.0) != other.away_s(7, 100.0)


def test_a_step_longer_than_nodes_stay_is_refused_at_last() -> None:
    found = Presence(1, churn=Churn(mean_there_s=1.0, mean_away_s=1.0))
    with pytest.raises(BadOption, match="never there"):
        found.finish(0, 0.0, 1000.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Absence(node=0, from_s=2.0, to_s=2.0), "from_s < to_s"),
        (lambda: absences((1.0, 2.0)) and Presence(2, [Absence(node=2, from_s=0, to_s=1)]), "0 to"),
        (lambda: Partition(groups=((0, 1), (1, 2)), from_s=0.0, to_s=1.0), "one group only"),
        (lambda: Partition(groups=(), from_s=0.0, to_s=1.0), "at least one node"),
        (lambda: Presence(1, partitions=[HALVES]), "node 1"),
        (lambda: Churn(mean_there_s=0.0, mean_away_s=1.0), "above 0"),
    ],
)
def test_what_cannot_be_is_refused(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(BadOption, match=said):
        make()
