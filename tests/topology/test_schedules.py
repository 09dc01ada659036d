"""Schedules as a whole: purity, periods, what `check` refuses, cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topology.built import GRAPHS, built, product
from weft.topology.errors import (
    BadGraph,
    BadOption,
    BadWeights,
    NotConnected,
    NotStochastic,
    UnknownName,
)
from weft.topology.options import Scalar

SCHEDULES = ("every", "window", "late", "sparse", "adaptive", "final_only")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["ring", "complete", "random_matching", "exponential", "erdos_renyi"]),
    st.sampled_from(SCHEDULES),
    st.integers(0, 99),
    st.integers(0, 2**70),
)
def test_any_round_is_computed_alone(graph: str, schedule: str, round: int, seed: int) -> None:
    one, other = (built(graph, 9, schedule=schedule, seed=seed) for _ in range(2))
    for earlier in range(0, round, 7):
        one.mixing(earlier)
    assert one.mixing(round) == other.mixing(round)
    assert one.mixes(round) or one.mixing(round).messages == 0


@pytest.mark.parametrize("graph", [name for name in GRAPHS if name != "file"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_graph_with_every_schedule_is_checked(graph: str, schedule: str) -> None:
    if graph == "base_k" and schedule in {"window", "sparse"}:
        with pytest.raises(BadWeights, match="graph base_k: found schedule"):
            built(graph, 8, schedule=schedule)
        return
    # Without push-sum weights an epidemic moves the mean.
    made = built(graph, 8, "push_sum" if graph == "epidemic" else "own", schedule=schedule)
    made.check()
    assert made.silent == (schedule == "final_only")
    for round in (0, 50, 99):
        assert np.abs(made.mixing(round).dense().sum(axis=0) - 1).max() < 1e-12


@pytest.mark.parametrize(
    ("graph", "nodes", "k", "period"),
    [
        ("ring", 5, 1, 1),
        ("ring", 5, 4, 4),
        ("one_peer_exponential", 6, 1, 3),
        ("one_peer_exponential", 8, 2, 6),
        ("base_k", 6, 1, 4),
        ("random_matching", 6, 1, None),
        ("random_matching", 2, 1, 1),
        ("random_matching", 1, 3, 1),
    ],
)
def test_periods(graph: str, nodes: int, k: int, period: int | None) -> None:
    schedule = built(graph, nodes, when={"k": k})
    assert schedule.period == period
    if period is not None:
        for round in range(12):
            assert schedule.mixing(round) == schedule.mixing(round + period)


@pytest.mark.parametrize("nodes", [2, 4, 8, 16, 32])
def test_one_peer_is_exact_for_powers_of_two(nodes: int) -> None:
    rounds = nodes.bit_length() - 1
    assert np.abs(product(built("one_peer_exponential", nodes), rounds) - 1 / nodes).max() < 1e-15


def test_one_peer_of_six_leaves_an_error() -> None:
    left = product(built("one_peer_exponential", 6), 3) - 1 / 6
    assert np.abs(left).max() == pytest.approx(1 / 12)


@pytest.mark.parametrize("graph", ["ring", "star", "exponential", "base_k", "random_matching"])
def test_a_thousand_rounds_keep_the_mean(graph: str) -> None:
    schedule = built(graph, 10)
    held = start = np.random.default_rng(0).standard_normal(10)
    for round in range(1000):
        held = schedule.mixing(round).sparse() @ held
    assert held.mean() == pytest.approx(start.mean(), abs=1e-12)


def test_directed_says_whether_edges_go_one_way() -> None:
    assert built("exponential", 8).directed
    assert built("one_peer_exponential", 8).directed
    assert not built("exponential", 3).directed
    assert not built("ring", 8).directed
    assert not built("exponential", 8, schedule="sparse").directed
    assert built("ring", 8, "push_sum", "sparse", when={"one_way": True}).directed
    assert not built("exponential", 8, schedule="final_only").directed


def test_constant_is_the_one_matrix_of_all_mixing_rounds() -> None:
    assert built("ring", 8, when={"k": 3}).constant == built("ring", 8).mixing(0)
    assert built("one_peer_exponential", 8).constant is None
    assert built("ring", 8, schedule="sparse").constant is None


def test_a_file_of_two_parts_is_not_connected() -> None:
    schedule = built("file", 4, options={"listed": "0-1 2-3"})
    with pytest.raises(NotConnected, match=r"graph file.*found 2 parts among 4 nodes \(node 2 and"):
        schedule.check()
    with pytest.raises(NotConnected):
        built("file", 5, schedule="sparse", options={"listed": "0-1 2-3"}).check()


def test_a_node_that_no_edge_names_is_not_connected() -> None:
    with pytest.raises(NotConnected):
        built("file", 3, options={"listed": "0-1"}).check()
    with pytest.raises(NotConnected):
        built("file", 2).check()


def test_a_directed_file_needs_push_sum() -> None:
    options: dict[str, Scalar] = {"listed": "0-1 1-2 2-0 0-2", "directed": True}
    with pytest.raises(
        NotStochastic, match=r"column 0 with sum 0\.8333\d*, expected 1: .*push_sum"
    ):
        built("file", 3, options=options).check()
    built("file", 3, "push_sum", options=options).check()
    one_way: dict[str, Scalar] = {"listed": "0-1 1-2", "directed": True}
    with pytest.raises(NotConnected):
        built("file", 3, "push_sum", options=one_way).check()


def test_drift_is_refused_unless_it_is_declared() -> None:
    with pytest.raises(NotStochastic, match="graph star, weights uniform"):
        built("star", 5, "uniform").check()
    built("star", 5, "uniform", options={"drift": True}).check()
    built("complete", 5, "uniform", "sparse", when={"one_way": True}).check()
    with pytest.raises(BadOption, match="option drift: found 1, expected bool"):
        built("star", 5, options={"drift": 1})


@pytest.mark.parametrize(
    ("graph", "weights", "schedule", "when", "sizes", "message"),
    [
        ("base_k", "metropolis", "every", {}, None, "base_k: found weights metropolis"),
        ("base_k", "own", "sparse", {}, None, "base_k: found schedule sparse"),
        ("complete", "own", "sparse", {"one_way": True}, None, "one_way: found weights own"),
        ("ring", "hastings", "every", {}, None, "hastings: found none data sizes, expected 4"),
        ("ring", "hastings", "every", {}, [1, 2], "hastings: found 2 data sizes, expected 4"),
        ("ring", "hastings", "every", {}, [1, 0, 1, 1], "found data size 0 of node 1"),
        ("ring", "hastings", "every", {}, [1, 1, np.nan, 1], "found data size nan of node 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    graph: str,
    weights: str,
    schedule: str,
    when: dict[str, Scalar],
    sizes: list[float] | None,
    message: str,
) -> None:
    with pytest.raises(BadWeights, match=message):
        built(graph, 4, weights, schedule, when=when, sizes=sizes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"graph": "rign"}, UnknownName),
        ({"weights": "unifrom"}, UnknownName),
        ({"schedule": "evry"}, UnknownName),
        ({"options": {"k": 1}}, BadOption),
        ({"when": {"q": 1}}, BadOption),
        ({"nodes": 0}, BadOption),
        ({"rounds": -1}, BadOption),
        ({"seed": -1}, BadOption),
    ],
)
def test_what_is_wrong_is_refused_when_it_is_built(
    changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        built(**{"graph": "ring", "nodes": 4, **changes})  # type: ignore[arg-type]


def test_a_round_below_zero_is_refused() -> None:
    with pytest.raises(BadOption, match="round: found -1"):
        built("ring", 4).mixing(-1)


def test_windows_of_everybody_need_room() -> None:
    with pytest.raises(BadGraph, match="schedule window: found 10000000000 weights"):
        built("ring", 100_000, schedule="window")
    built("ring", 100_000, schedule="window", when={"inside": "graph"})
    with pytest.raises(BadGraph, match="schedule sparse"):
        built("complete", 100_000, schedule="sparse", when={"pairs_per_node": 1000.0})
    with pytest.raises(BadGraph, match="graph complete"):
        built("complete", 100_000)


def test_hastings_keeps_the_mean_over_the_data() -> None:
    schedule = built("star", 4, "hastings", sizes=[10, 20, 30, 40])
    schedule.check()
    total = product(schedule, 500)
    assert np.abs(total - np.array([0.1, 0.2, 0.3, 0.4])).max() < 1e-12


@pytest.mark.parametrize(
    "graph",
    ["ring", "exponential", "one_peer_exponential", "random_matching", "base_k", "random_regular"],
)
def test_a_hundred_thousand_nodes_take_arrays_only(graph: str) -> None:
    schedule = built(graph, 100_000)
    mixing = schedule.mixing(5)
    assert len(mixing.weights) <= 18 * 100_000
    assert np.abs(mixing.sparse() @ np.ones(100_000) - 1).max() < 1e-12
    node = 31_337
    assert sum(weight for _, weight in mixing.row(node)) == pytest.approx(1)
