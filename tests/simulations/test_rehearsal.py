"""What the demo promises, rehearsed without daemons."""

import statistics

import pytest

from tests.simulations.rehearsal import rehearse
from weft.simulations.references import TaskOptions, central, local_only
from weft.topology.schedules import ScheduleParams

RING = ScheduleParams(graph="ring", weights="metropolis")


@pytest.mark.parametrize("seed", [0, 1, 8])
def test_the_demo_s_claims(seed: int) -> None:
    """Global within 3 points of central, 20 above the mean of the nodes alone."""
    options = TaskOptions(seed=seed)
    merged = rehearse(options, RING, rounds=20)
    alone = statistics.fmean(curve[-1] for curve in local_only(options, rounds=20))
    together = central(options, rounds=20)[-1]
    assert merged.final > together - 0.03
    assert merged.final > alone + 0.20
    assert statistics.fmean(merged.merged[-1]) > alone + 0.20


def test_merging_with_all_ends_in_consensus() -> None:
    outcome = rehearse(TaskOptions(nodes=3, steps=3), ScheduleParams(graph="complete"), rounds=2)
    for before, after in outcome.distances:
        assert before > 0.01
        assert after < 1e-5
    assert len(set(outcome.merged[-1])) == 1


def test_a_ring_of_four_shrinks_the_distance_by_its_gap() -> None:
    """W of the ring of four has second eigenvalue 1/3."""
    outcome = rehearse(TaskOptions(steps=3), RING, rounds=3)
    for before, after in outcome.distances:
        assert 0 < after <= before / 3 + 1e-6


def test_two_rehearsals_are_equal() -> None:
    options = TaskOptions(nodes=2, steps=2)
    assert rehearse(options, RING, rounds=2) == rehearse(options, RING, rounds=2)
