"""Rules of weights: values by hand, and what each keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weft.topology.edges import Edges
from weft.topology.errors import UnknownName
from weft.topology.matrices import check_stochastic
from weft.topology.weights import OWN, RULES, rule


def equal(nodes: int) -> NDArray[np.float64]:
    return np.full(nodes, 1 / nodes)


def star(leaves: int) -> Edges:
    return Edges.between(leaves + 1, np.zeros(leaves, dtype=int), np.arange(1, leaves + 1))


BY_HAND = {
    "metropolis": [[1 / 3, 1 / 3, 1 / 3], [1 / 3, 2 / 3, 0], [1 / 3, 0, 2 / 3]],
    "max_degree": [[1 / 3, 1 / 3, 1 / 3], [1 / 3, 2 / 3, 0], [1 / 3, 0, 2 / 3]],
    "uniform": [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0], [1 / 2, 0, 1 / 2]],
    "push_sum": [[1 / 3, 1 / 2, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 0, 1 / 2]],
    # pi = (1/2, 1/4, 1/4): W_01 = min(1/3, 1/2 * 1/2) = 1/4, W_10 = min(1/2, 2 * 1/3) = 1/2.
    "hastings": [[1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 2, 0], [1 / 2, 0, 1 / 2]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_star_of_three_by_hand(name: str) -> None:
    target = np.array([0.5, 0.25, 0.25]) if name == "hastings" else equal(3)
    found = rule(name).apply(star(2), target).dense()
    assert np.abs(found - np.array(BY_HAND[name])).max() < 1e-15


def test_sinkhorn_on_a_star_of_three_by_hand() -> None:
    # Scaled by (a, b, b): W_00 = a^2, W_11 = b^2, and ab on the edges.
    found = rule("sinkhorn").apply(star(2), equal(3)).dense()
    edge = found[0, 1]
    assert found[0, 0] * found[1, 1] == pytest.approx(edge**2)
    assert found[0, 0] + 2 * edge == pytest.approx(1)
    assert found[1, 1] + edge == pytest.approx(1)


def graphs(nodes: int, seed: int) -> Edges:
    chance = np.random.default_rng(seed)
    path = np.arange(nodes - 1)
    extra = chance.integers(0, nodes, (2, nodes))
    return Edges.between(
        nodes, np.concatenate([path, extra[0]]), np.concatenate([path + 1, extra[1]])
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["metropolis", "max_degree", "sinkhorn"]),
    st.integers(2, 30),
    st.integers(0, 10**6),
)
def test_symmetric_rules_on_any_undirected_graph(name: str, nodes: int, seed: int) -> None:
    mixing = rule(name).apply(graphs(nodes, seed), equal(nodes))
    dense = mixing.dense()
    assert mixing.is_symmetric
    assert np.abs(dense.sum(axis=1) - 1).max() < 1e-14
    assert (np.diag(dense) > 0).all()
    assert (dense >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10**6))
def test_hastings_keeps_the_weighted_mean(nodes: int, seed: int) -> None:
    target = np.random.default_rng(seed).integers(1, 1000, nodes).astype(float)
    target /= target.sum()
    dense = rule("hastings").apply(graphs(nodes, seed), target).dense()
    assert np.abs(target @ dense - target).max() < 1e-15
    assert np.abs(dense.sum(axis=1) - 1).max() < 1e-14
    assert (dense >= 0).all()


def test_hastings_with_equal_sizes_is_metropolis() -> None:
    edges = graphs(12, 1)
    hastings = rule("hastings").apply(edges, equal(12))
    assert hastings == rule("metropolis").apply(edges, equal(12))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10**6))
def test_push_sum_finds_the_mean_on_directed_graphs(nodes: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    ring = np.arange(nodes)
    extra = chance.integers(0, nodes, (2, nodes))
    edges = Edges.pulls(
        nodes, np.concatenate([ring, extra[0]]), np.concatenate([(ring + 1) % nodes, extra[1]])
    )
    mixing = rule("push_sum").apply(edges, equal(nodes))
    check_stochastic(mixing, "here", kept=None, columns=True)
    held, mass = chance.standard_normal(nodes), np.ones(nodes)
    mean = held.mean()
    dense = mixing.dense()
    for _ in range(2000):
        held, mass = dense @ held, dense @ mass
        assert (mass > 0).all()
    assert mass.sum() == pytest.approx(nodes)
    assert np.abs(held / mass - mean).max() < 1e-9


def test_equal_weights_are_equal_to_the_bit() -> None:
    for name in ("metropolis", "uniform", "max_degree", "push_sum"):
        edges = Edges.between(7, *np.triu_indices(7, 1))
        assert set(rule(name).apply(edges, equal(7)).weights.tolist()) == {1 / 7}


def test_own_is_metropolis_where_the_graph_brings_none() -> None:
    assert rule(OWN) is RULES["metropolis"]


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="weights 'metropolls' is not known; did you mean 'metro"):
        rule("metropolls")
