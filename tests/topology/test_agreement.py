"""Rounds to agreement, degrees, messages."""

import math
from itertools import islice

import numpy as np
import pytest

from tests.topology.built import built, product
from weft.topology.agreement import degrees, distances, messages_per_round, rounds_to_agreement
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule


def by_products(schedule: Schedule, tolerance: float = 1e-3) -> int:
    """Straight from the definition."""
    total = np.eye(schedule.nodes)
    for round in range(5000):
        total = schedule.mixing(round).dense() @ total
        if np.linalg.norm(total - total.mean(axis=0), ord=2) <= tolerance:
            return round + 1
    raise AssertionError("never")


@pytest.mark.parametrize(
    "graph",
    [
        *("ring", "complete", "star", "path", "torus", "exponential", "two_hub", "erdos_renyi"),
        *("one_peer_exponential", "base_k", "random_matching", "hypercube"),
    ],
)
@pytest.mark.parametrize("nodes", [4, 8])
def test_rounds_as_defined(graph: str, nodes: int) -> None:
    schedule = built(graph, nodes)
    assert rounds_to_agreement(schedule) == by_products(schedule)


@pytest.mark.parametrize(
    ("schedule", "when"),
    [
        ("every", {"k": 3}),
        ("sparse", {"pairs_per_node": 0.7}),
        ("sparse", {"pairs_per_node": 2.5}),
        ("adaptive", {"k": 2}),
    ],
)
@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_rounds_as_defined_with_schedules(
    graph: str, schedule: str, when: dict[str, Scalar]
) -> None:
    made = built(graph, 7, schedule=schedule, when=when, rounds=5000)
    assert rounds_to_agreement(made) == by_products(made)


def test_the_bound_of_the_gap_holds() -> None:
    assert rounds_to_agreement(built("ring", 16)) == 133
    assert 0.94931**133 <= 1e-3 < 0.94931**132
    assert rounds_to_agreement(built("ring", 16, when={"k": 3})) == 399
    assert rounds_to_agreement(built("ring", 16), tolerance=1e-6) == 266


@pytest.mark.parametrize("nodes", [2, 4, 8, 16])
def test_exact_graphs_take_their_period(nodes: int) -> None:
    assert rounds_to_agreement(built("one_peer_exponential", nodes)) == nodes.bit_length() - 1
    odd = built("base_k", nodes + 1, options={"k": 2})
    assert rounds_to_agreement(odd) == odd.period
    assert rounds_to_agreement(built("complete", nodes)) == 1


def test_one_node_agrees_at_once_and_nobody_never() -> None:
    assert rounds_to_agreement(built("ring", 1)) == 0
    assert rounds_to_agreement(built("ring", 5, schedule="final_only")) is None


def test_a_window_counts_within_the_run() -> None:
    late = built("ring", 6, schedule="window", when={"pairs_per_node": 0.0}, rounds=40)
    assert rounds_to_agreement(late) == 39
    slow = built("path", 30, schedule="late", rounds=40)
    assert rounds_to_agreement(slow) is None


def test_what_is_hopelessly_slow_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = built("path", 60, schedule="sparse", when={"pairs_per_node": 0.1})
    monkeypatch.setattr("weft.topology.agreement.PATIENCE", 200)
    assert rounds_to_agreement(slow) is None
    # Nothing happens in the first 999 rounds, and that is no reason to give up.
    patient = built("one_peer_exponential", 8, when={"k": 400})
    assert rounds_to_agreement(patient) == 1200


def test_push_sum_reads_the_ratio() -> None:
    options: dict[str, Scalar] = {"listed": "0-1 1-2 2-0 0-2", "directed": True}
    schedule = built("file", 3, "push_sum", options=options)
    rounds = rounds_to_agreement(schedule)
    assert rounds is not None
    total = product(schedule, rounds)
    ratio = total / total.sum(axis=1, keepdims=True)
    assert np.linalg.norm(ratio - ratio.mean(axis=0), ord=2) <= 1e-3
    # On a regular graph the ratio is the value itself.
    assert rounds_to_agreement(built("ring", 9, "push_sum")) == rounds_to_agreement(
        built("ring", 9)
    )


def test_large_graphs_from_random_starts() -> None:
    schedule = built("one_peer_exponential", 512)
    assert rounds_to_agreement(schedule) == 9
    assert rounds_to_agreement(built("base_k", 300)) == built("base_k", 300).period


def test_distances_fall_by_the_gap() -> None:
    found = list(islice(distances(built("ring", 12)), 20))
    gap = 1 - (1 + 2 * math.cos(2 * math.pi / 12)) / 3
    assert found == pytest.approx([(1 - gap) ** round for round in range(1, 21)])


def test_degrees_are_what_a_node_takes_in_one_round() -> None:
    assert degrees(built("star", 5)) == [4, 1, 1, 1, 1]
    assert degrees(built("exponential", 8)) == [3] * 8
    assert degrees(built("one_peer_exponential", 8)) == [1] * 8
    assert degrees(built("base_k", 25, options={"k": 2})) == [2] * 25
    assert degrees(built("ring", 1)) == [0]
    assert degrees(built("ring", 4, schedule="window")) == [3] * 4


@pytest.mark.parametrize(
    ("graph", "nodes", "schedule", "when", "messages"),
    [
        ("ring", 16, "every", {}, 32),
        ("ring", 16, "every", {"k": 4}, 8),
        ("ring", 10_000, "every", {"k": 5000}, 4),
        ("star", 5, "every", {}, 8),
        ("complete", 6, "every", {}, 30),
        ("exponential", 8, "every", {}, 24),
        ("one_peer_exponential", 8, "every", {}, 8),
        ("random_matching", 9, "every", {}, 8),
        ("random_matching", 9, "every", {"k": 2}, 4),
        ("complete", 16, "sparse", {"pairs_per_node": 0.2}, 3.2),
        ("ring", 16, "sparse", {"pairs_per_node": 0.2}, 3.2),
        ("ring", 16, "sparse", {"pairs_per_node": 9.0}, 32),
        ("complete", 5, "sparse", {"pairs_per_node": 1.0}, 4),
        ("ring", 16, "final_only", {}, 0),
        ("ring", 16, "late", {"budget": 10}, 3.2),
        ("ring", 1, "every", {}, 0),
        ("ring", 6, "window", {"length": 10, "pairs_per_node": 0.0}, 3),
    ],
)
def test_messages_a_round(
    graph: str, nodes: int, schedule: str, when: dict[str, Scalar], messages: float
) -> None:
    made = built(graph, nodes, schedule=schedule, when=when)
    assert messages_per_round(made) == pytest.approx(messages)


@pytest.mark.parametrize("graph", ["complete", "exponential", "star"])
@pytest.mark.parametrize("expected", [0.4, 1.5, 2.0])
@pytest.mark.parametrize("one_way", [False, True])
def test_expected_messages_are_what_is_drawn(graph: str, expected: float, one_way: bool) -> None:
    when: dict[str, Scalar] = {"pairs_per_node": expected, "one_way": one_way}
    made = built(graph, 9, "push_sum" if one_way else "own", "sparse", when=when)
    drawn = np.mean([made.mixing(round).messages for round in range(1500)])
    assert messages_per_round(made) == pytest.approx(drawn, rel=0.05)
