"""Spectral gaps: the published table, closed forms, large graphs, chance."""

import math

import numpy as np
import pytest

from tests.topology.built import built
from weft.topology.errors import BadGraph
from weft.topology.matrices import Mixing
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule
from weft.topology.spectrum import (
    circulant_moduli,
    expected_contraction,
    gap_over_period,
    spectral_gap,
)

TABLE = {
    # nodes: ring, two hubs, static exponential, star, path; Metropolis or own weights.
    4: (0.6667, 0.6600, 0.6667, 0.2500, 0.1953),
    5: (0.4607, 0.5000, 0.7500, 0.2000, 0.1273),
    8: (0.1953, 0.2800, 0.5000, 0.1250, 0.0507),
    10: (0.1273, 0.2200, 0.4000, 0.1000, 0.0326),
    16: (0.0507, 0.1200, 0.4000, 0.0625, 0.0128),
    20: (0.0326, 0.1000, 0.3333, 0.0500, 0.0082),
    32: (0.0128, 0.0600, 0.3333, 0.0312, 0.0032),
}
GRAPHS = ("ring", "two_hub", "exponential", "star", "path")


@pytest.mark.parametrize("nodes", TABLE)
@pytest.mark.parametrize("column", range(5), ids=GRAPHS.__getitem__)
def test_the_table(nodes: int, column: int) -> None:
    assert spectral_gap(built(GRAPHS[column], nodes).mixing(0)) == pytest.approx(
        TABLE[nodes][column], abs=5.1e-5
    )


@pytest.mark.parametrize(("nodes", "gap"), [(16, 0.4), (32, 0.1172)])
def test_the_table_s_tori(nodes: int, gap: float) -> None:
    assert gap_over_period(built("torus", nodes)) == pytest.approx(gap, abs=5.1e-5)


@pytest.mark.parametrize("nodes", [3, 7, 50, 1001])
def test_closed_forms(nodes: int) -> None:
    ring = 1 - (1 + 2 * math.cos(2 * math.pi / nodes)) / 3
    path = 1 - (1 + 2 * math.cos(math.pi / nodes)) / 3
    assert spectral_gap(built("ring", nodes).mixing(0)) == pytest.approx(ring, rel=1e-9)
    assert spectral_gap(built("path", nodes).mixing(0)) == pytest.approx(path, rel=1e-6)
    assert spectral_gap(built("star", nodes).mixing(0)) == pytest.approx(1 / nodes, rel=1e-9)
    assert spectral_gap(built("complete", nodes).mixing(0)) == pytest.approx(1)


@pytest.mark.parametrize("power", [2, 5, 10, 16])
def test_static_exponential_of_powers_of_two(power: int) -> None:
    gap = spectral_gap(built("exponential", 2**power).mixing(0))
    assert gap == pytest.approx(2 / (1 + power))


def test_one_node_and_nobody() -> None:
    assert spectral_gap(Mixing.identity(1)) == 1.0
    assert spectral_gap(Mixing.identity(5)) == 0.0
    assert gap_over_period(built("ring", 1)) == 1.0
    assert gap_over_period(built("ring", 6, schedule="final_only")) == 0.0
    parts = built("file", 4, options={"listed": "0-1 2-3"})
    assert spectral_gap(parts.mixing(0)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("graph", ["ring", "exponential", "complete", "two_hub", "star", "torus"])
def test_the_fft_agrees_with_eigenvalues(graph: str) -> None:
    mixing = built(graph, 12).mixing(0)
    moduli = circulant_moduli(mixing)
    dense = np.sort(np.abs(np.linalg.eigvals(mixing.dense())))
    assert (moduli is None) == (graph in {"two_hub", "star", "torus"})
    if moduli is not None:
        assert np.abs(np.sort(moduli) - dense).max() < 1e-12


@pytest.mark.parametrize(
    ("graph", "weights"),
    [
        ("torus", "own"),
        ("erdos_renyi", "own"),
        ("watts_strogatz", "sinkhorn"),
        ("erdos_renyi", "push_sum"),
        ("star", "own"),
    ],
)
def test_large_graphs_agree_with_dense_ones(
    graph: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixing = built(graph, 300, weights).mixing(0)
    dense = spectral_gap(mixing)
    monkeypatch.setattr("weft.topology.spectrum.DENSE", 10)
    assert spectral_gap(mixing) == pytest.approx(dense, rel=1e-4)


def test_a_long_path_has_a_gap_all_the_same() -> None:
    expected = 1 - (1 + 2 * math.cos(math.pi / 20_000)) / 3
    assert spectral_gap(built("path", 20_000).mixing(0)) == pytest.approx(expected, rel=1e-3)


def test_what_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.topology.spectrum.DENSE", 10)
    monkeypatch.setattr("weft.topology.spectrum.RESTARTS", 1)
    with pytest.raises(BadGraph, match="the iteration did not converge"):
        spectral_gap(built("random_regular", 2000).mixing(0))


@pytest.mark.parametrize("nodes", [2, 4, 8, 64])
def test_exact_after_the_period_is_a_gap_of_one(nodes: int) -> None:
    assert gap_over_period(built("one_peer_exponential", nodes)) == pytest.approx(1)
    assert gap_over_period(built("base_k", nodes + 1)) == pytest.approx(1)


def test_one_round_of_one_peer_has_no_gap_but_its_period_has() -> None:
    schedule = built("one_peer_exponential", 12)
    assert min(spectral_gap(schedule.mixing(round)) for round in range(4)) < 1e-12
    product = np.linalg.multi_dot([schedule.mixing(round).dense() for round in range(4)])
    moduli = np.sort(np.abs(np.linalg.eigvals(product)))
    assert gap_over_period(schedule) == pytest.approx(1 - moduli[-2])


def test_the_product_of_large_graphs_agrees_with_the_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = built("one_peer_exponential", 40)
    circulant = gap_over_period(schedule)
    monkeypatch.setattr("weft.topology.spectrum.circulant_moduli", lambda mixing: None)
    assert gap_over_period(schedule) == pytest.approx(circulant)
    monkeypatch.setattr("weft.topology.spectrum.DENSE", 10)
    assert gap_over_period(schedule) == pytest.approx(circulant)


def test_every_k_counts_the_silent_rounds_into_the_period() -> None:
    assert gap_over_period(built("ring", 9, when={"k": 5})) == gap_over_period(built("ring", 9))


def measured(schedule: Schedule, rounds: int = 3000) -> float:
    """The mean of |x' - mean'|^2 / |x - mean|^2, each round with a new random x."""
    chance = np.random.default_rng(1)
    total = 0.0
    for round in range(rounds):
        start = chance.standard_normal((schedule.nodes, 4))
        start -= start.mean(axis=0)
        after = schedule.mixing(round).sparse() @ start
        after = after - after.mean(axis=0)
        total += float((after**2).sum() / (start**2).sum())
    return total / rounds


SPARSE: dict[str, Scalar] = {"pairs_per_node": 0.2}


@pytest.mark.parametrize(("nodes", "left"), [(16, 1 - 0.2 * 16 / 30), (32, 1 - 0.2 * 32 / 62)])
def test_pairs_contract_in_closed_form(nodes: int, left: float) -> None:
    schedule = built("complete", nodes, schedule="sparse", when=SPARSE)
    assert expected_contraction(schedule) == pytest.approx(left)
    assert measured(schedule) == pytest.approx(left, abs=0.006)
    assert gap_over_period(schedule) == pytest.approx(1 - math.sqrt(left))


@pytest.mark.parametrize("nodes", [5, 8])
def test_matchings_contract_in_closed_form(nodes: int) -> None:
    schedule = built("random_matching", nodes)
    left = 1 - (nodes - nodes % 2) / (2 * (nodes - 1))
    assert expected_contraction(schedule) == pytest.approx(left)
    assert measured(schedule) == pytest.approx(left, abs=0.015)


@pytest.mark.parametrize("nodes", [16, 32])
def test_one_way_pulls_contract_as_computed_by_hand(nodes: int) -> None:
    """E|(I - J) W x|^2 for pulls from one random peer with probability R = 0.2."""
    n, r = nodes, 0.2
    kept = (1 - r) + r / 2 * (1 - 1 / (n - 1))
    drift = r / (4 * n) * (2 * n / (n - 1) - r * n**2 / (n - 1) ** 2) / n
    schedule = built("complete", n, "uniform", "sparse", when={**SPARSE, "one_way": True})
    assert expected_contraction(schedule) == pytest.approx(kept - drift * n, abs=0.004)
    # As estimated elsewhere from random starts: 1 - 0.114 and 1 - 0.104.
    assert expected_contraction(schedule) == pytest.approx({16: 0.886, 32: 0.896}[n], abs=0.006)


@pytest.mark.parametrize("graph", ["ring", "star"])
def test_chance_over_a_graph_is_estimated(graph: str) -> None:
    schedule = built(graph, 8, schedule="sparse", when={"pairs_per_node": 0.5})
    worst = expected_contraction(schedule)
    assert measured(schedule, 1000) < worst < 1


def test_a_random_schedule_that_is_always_the_same_has_the_gap_of_its_matrix() -> None:
    schedule = built("ring", 10, schedule="sparse", when={"pairs_per_node": 2.0})
    assert gap_over_period(schedule) == pytest.approx(gap_over_period(built("ring", 10)))


def test_silent_rounds_of_a_random_schedule_count() -> None:
    every, third = (built("random_matching", 8, when={"k": k}) for k in (1, 3))
    left = expected_contraction(every)
    assert expected_contraction(third) == pytest.approx(1 - (1 - left) / 3, abs=1e-12)


def test_push_sum_by_chance_has_a_gap() -> None:
    when: dict[str, Scalar] = {"pairs_per_node": 1.0, "one_way": True}
    assert 0.1 < gap_over_period(built("complete", 12, "push_sum", "sparse", when=when)) < 0.6


def test_what_cannot_be_known_is_not_a_number() -> None:
    assert math.isnan(gap_over_period(built("ring", 500, schedule="sparse")))


def test_gaps_of_a_hundred_thousand_nodes() -> None:
    nodes = 100_000
    ring = 1 - (1 + 2 * math.cos(2 * math.pi / nodes)) / 3
    assert gap_over_period(built("ring", nodes)) == pytest.approx(ring, rel=1e-5)
    left = 1 - 0.2 * nodes / (2 * (nodes - 1))
    sparse = built("complete", nodes, schedule="sparse")
    assert gap_over_period(sparse) == pytest.approx(1 - math.sqrt(left))
