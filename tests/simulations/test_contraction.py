"""Contraction by hand, and what is measured against what is predicted."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.topology.built import built
from weft.simulations.contraction import expected_shares, measured, predicted, repeats_after
from weft.simulations.engines.gossip import GossipStudy, drawn_values
from weft.simulations.study import Moment
from weft.topology.schedules import Schedule

BLANK = Moment(
    round=0, loss=math.nan, messages=0, bytes=0.0, trained=1.0, mixed=1.0, accuracies=None
)


def moments(*distances: float) -> list[Moment]:
    """Of a study without training, whose distances are these."""
    return [replace(BLANK, trained=before, mixed=after) for before, after in pairwise(distances)]


def gossip(schedule: Schedule, size: int = 1) -> list[Moment]:
    values = drawn_values(schedule.nodes, size, 1)
    return list(GossipStudy(schedule=schedule, values=values).moments())


def test_predictions_by_hand() -> None:
    for nodes in (5, 16, 101):
        ring = (1 + 2 * math.cos(2 * math.pi / nodes)) / 3
        assert predicted(built("ring", nodes)) == pytest.approx(ring)
        every = built("ring", nodes, when={"k": 3})
        assert predicted(every) == pytest.approx(ring ** (1 / 3))
        assert predicted(built("star", nodes)) == pytest.approx(1 - 1 / nodes)
        pairs = built("random_matching", nodes)
        left = 1 - (nodes - nodes % 2) / (2 * (nodes - 1))
        assert predicted(pairs) == pytest.approx(math.sqrt(left))
    assert predicted(built("exponential", 64)) == pytest.approx(1 - 2 / 7)
    assert predicted(built("complete", 9)) == 0.0
    assert predicted(built("one_peer_exponential", 64)) == 0.0
    assert predicted(built("base_k", 50)) == 0.0
    assert predicted(built("ring", 9, schedule="final_only")) == 1.0
    assert predicted(built("ring", 1)) == 0.0
    assert math.isnan(predicted(built("ring", 9, schedule="window")))


def test_matchings_every_third_round_shrink_as_one_in_three() -> None:
    every, third = built("random_matching", 50), built("random_matching", 50, when={"k": 3})
    assert predicted(third) == pytest.approx(predicted(every) ** (1 / 3), rel=2e-3)


def test_what_belongs_together() -> None:
    assert repeats_after(built("ring", 16)) == 1
    assert repeats_after(built("one_peer_exponential", 16, when={"k": 2})) == 8
    assert repeats_after(built("random_matching", 16, when={"k": 3})) == 3


def test_measured_by_hand() -> None:
    assert measured(moments(8, 4, 2, 1)) == pytest.approx(0.5)
    # The first half is not looked at, the second in the root mean square.
    later = moments(1000, 1, 0.9, 0.9 * 0.6, 0.9 * 0.6 * 0.8)
    assert measured(later) == pytest.approx(math.sqrt((0.6**2 + 0.8**2) / 2))
    assert measured(moments(8, 8, 4, 4, 2), 2) == pytest.approx(math.sqrt(0.5))
    assert measured(moments(8, 4, 1e-15)) == 0.0
    assert math.isnan(measured([]))
    assert math.isnan(measured(moments(8, 4), 2))


def test_rounding_is_not_measured() -> None:
    """After agreement distances are rounding and stay: not a contraction of one."""
    ring = built("ring", 8, rounds=400)
    assert gossip(ring)[-1].mixed < 1e-14
    assert measured(gossip(ring)) == pytest.approx(predicted(ring), rel=1e-3)


def test_training_in_between_does_not_count() -> None:
    """Distances grow by training; only what exchanges did is measured."""
    halved = [replace(BLANK, trained=size, mixed=size / 2) for size in (1.0, 3.0, 2.0, 5.0)]
    assert measured(halved) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("graph", "nodes", "rounds", "close"),
    [
        ("ring", 16, 200, 1e-3),
        ("torus", 64, 100, 1e-2),
        ("star", 16, 120, 1e-3),
        ("exponential", 64, 40, 1e-2),
        ("one_peer_exponential", 48, 60, 0.05),
        ("random_matching", 1000, 30, 0.02),
    ],
)
def test_measured_is_as_predicted(graph: str, nodes: int, rounds: int, close: float) -> None:
    schedule = built(graph, nodes, rounds=rounds)
    found = measured(gossip(schedule, size=64), repeats_after(schedule))
    assert found == pytest.approx(predicted(schedule), rel=close)


def test_sparse_gossip_is_as_predicted() -> None:
    schedule = built("complete", 1000, schedule="sparse", rounds=60)
    assert predicted(schedule) == pytest.approx(math.sqrt(1 - 0.2 / 2 * 1000 / 999))
    assert measured(gossip(schedule, size=16)) == pytest.approx(predicted(schedule), rel=0.01)


@pytest.mark.parametrize("graph", ["one_peer_exponential", "base_k", "complete"])
def test_exact_schedules_are_measured_exact(graph: str) -> None:
    schedule = built(graph, 32, rounds=20)
    assert measured(gossip(schedule), repeats_after(schedule)) == predicted(schedule) == 0.0


@pytest.mark.parametrize("weights", ["own", "metropolis"])
@pytest.mark.parametrize("graph", ["ring", "exponential", "torus", "star", "erdos_renyi"])
def test_no_round_shrinks_less_than_the_bound(graph: str, weights: str) -> None:
    schedule = built(graph, 40, weights, rounds=50)
    bound = predicted(schedule)
    # The exponential graph's W is not symmetric, but circulant, and normal all the same.
    for moment in gossip(schedule):
        assert moment.mixed <= bound * moment.trained * (1 + 1e-9) + 1e-14


def test_expected_shares_by_hand() -> None:
    # Eigenvalues of a ring of six: 2/3 twice, 0 twice, -1/3.
    ring = expected_shares(built("ring", 6, rounds=2))
    assert list(ring) == pytest.approx(
        [math.sqrt((2 * 4 / 9 + 1 / 9) / 5), math.sqrt((2 * 16 / 81 + 1 / 81) / 5)]
    )
    silent = expected_shares(built("ring", 6, when={"k": 2}, rounds=2))
    assert next(silent) == 1.0
    assert list(expected_shares(built("complete", 7, rounds=1))) == pytest.approx([0], abs=1e-12)
    assert all(map(math.isnan, expected_shares(built("star", 6, rounds=3))))
    assert all(map(math.isnan, expected_shares(built("ring", 6, "push_sum", rounds=3))))


@pytest.mark.parametrize(
    ("graph", "schedule"),
    [
        ("ring", "every"),
        ("exponential", "every"),
        ("one_peer_exponential", "every"),
        ("random_matching", "every"),
        ("complete", "sparse"),
    ],
)
def test_many_nodes_are_where_the_spectrum_expects_them(graph: str, schedule: str) -> None:
    """Not a bound: the distance itself, up to what is left to the draw of the values."""
    built_ = built(graph, 3000, schedule=schedule, rounds=6)
    study = gossip(built_, size=16)
    found = [moment.mixed / study[0].trained for moment in study]
    assert found == pytest.approx(list(expected_shares(built_)), rel=0.03)
    assert found[-1] < 0.8


def test_the_expected_square_is_that_of_many_starts() -> None:
    schedule = built("exponential", 12, rounds=3)
    values = drawn_values(12, 20_000, 2)
    product = np.eye(12)
    for round, share in enumerate(expected_shares(schedule)):
        product = schedule.mixing(round).dense() @ product
        apart = product @ values
        apart -= apart.mean(axis=0)
        start = values - values.mean(axis=0)
        found = math.sqrt(float(np.square(apart).sum() / np.square(start).sum()))
        assert found == pytest.approx(share, rel=0.01)
