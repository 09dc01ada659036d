"""Sparse gossip: how much, between whom, and no drift where it is symmetric."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topology.built import built
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule


def sparse(
    graph: str, nodes: int, expected: float, weights: str = "own", *, one_way: bool = False
) -> Schedule:
    when: dict[str, Scalar] = {"pairs_per_node": expected, "one_way": one_way}
    return built(graph, nodes, weights, "sparse", when=when)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.floats(0, 40), st.integers(0, 10**6))
def test_exchanges_anywhere_are_symmetric_and_doubly_stochastic(
    nodes: int, expected: float, round: int
) -> None:
    mixing = sparse("complete", nodes, expected).mixing(round)
    assert mixing.is_symmetric
    assert np.abs(mixing.dense().sum(axis=0) - 1).max() < 1e-14
    degrees = np.bincount(mixing.receivers[mixing.between], minlength=nodes)
    assert degrees.max() - degrees.min() <= 1
    assert degrees.max() <= nodes - 1


@pytest.mark.parametrize("expected", [0.2, 0.75, 1.0, 1.5, 2.0, 3.3])
@pytest.mark.parametrize("nodes", [7, 16])
def test_as_many_exchanges_as_expected(nodes: int, expected: float) -> None:
    schedule = sparse("complete", nodes, expected)
    counts = [schedule.mixing(round).messages for round in range(600)]
    most = nodes - nodes % 2 if expected <= 1 else nodes * (nodes - 1)
    assert np.mean(counts) == pytest.approx(min(most, expected * nodes), abs=0.12)
    assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("expected", [0.2, 1.0, 1.6, 3.0])
def test_as_many_pulls_as_expected(expected: float) -> None:
    schedule = sparse("complete", 12, expected, "uniform", one_way=True)
    counts = [schedule.mixing(round).messages for round in range(600)]
    assert np.mean(counts) == pytest.approx(expected * 12, rel=0.04)
    if expected == int(expected):
        assert set(counts) == {int(expected * 12)}


def test_pulls_favour_nobody() -> None:
    schedule = sparse("complete", 5, 2.0, "uniform", one_way=True)
    seen = np.mean([schedule.mixing(round).dense() for round in range(2000)], axis=0)
    off = seen[~np.eye(5, dtype=bool)]
    assert np.abs(off - 1 / 6).max() < 0.02


@pytest.mark.parametrize(("expected", "one_way"), [(19.0, False), (19.0, True), (50.0, True)])
def test_from_all_others_on_it_is_the_plain_mean(expected: float, one_way: bool) -> None:
    schedule = sparse("complete", 20, expected, "uniform", one_way=one_way)
    assert set(schedule.mixing(0).weights.tolist()) == {1 / 20}


def test_none_expected_is_silence_every_round() -> None:
    for graph in ("complete", "ring"):
        schedule = sparse(graph, 9, 0.0)
        assert schedule.silent
        assert all(schedule.mixing(round).messages == 0 for round in range(50))
        assert np.array_equal(schedule.mixing(3).dense(), np.eye(9))


@pytest.mark.parametrize("graph", ["ring", "star", "torus", "exponential", "erdos_renyi"])
@pytest.mark.parametrize("one_way", [False, True])
def test_over_a_graph_only_its_edges_are_used(graph: str, one_way: bool) -> None:
    schedule = sparse(graph, 12, 0.8, "push_sum" if one_way else "own", one_way=one_way)
    whole = built(graph, 12).mixing(0).dense() > 0
    if not one_way:
        whole = whole | whole.T
    counts = []
    for round in range(400):
        mixing = schedule.mixing(round)
        assert whole[mixing.receivers, mixing.senders].all()
        counts.append(mixing.messages)
    assert np.mean(counts) == pytest.approx(0.8 * 12, rel=0.06)


def test_a_hundred_thousand_nodes_in_no_time_to_speak_of() -> None:
    schedule = sparse("complete", 100_000, 0.2)
    mixing = schedule.mixing(12345)
    assert mixing.messages == 20_000
    assert len(mixing.weights) == 120_000


def test_any_round_comes_alone_and_alike() -> None:
    one, other = (sparse("complete", 50, 0.7) for _ in range(2))
    for round in range(20):
        one.mixing(round)
    assert one.mixing(20) == other.mixing(20)
    assert one.mixing(20) != one.mixing(21)
