"""Graphs by chance: what is promised about each, and the same draw everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topology.built import built
from weft.topology.draws import Source, Stream
from weft.topology.errors import BadGraph, NotConnected, NotStochastic
from weft.topology.families import graph
from weft.topology.random_graphs import with_degrees


@pytest.mark.parametrize("nodes", range(3, 21))
def test_regular_graphs_of_every_size_and_degree(nodes: int) -> None:
    for degree in range(2, nodes):
        if degree * nodes % 2:
            continue
        edges = graph("random_regular", [("degree", degree)]).edges(nodes, 0, nodes)
        assert edges.in_degrees.tolist() == [degree] * nodes
        assert not edges.directed
        assert edges.is_connected


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 25), st.data(), st.integers(0, 10**6))
def test_near_regular_degrees_are_met(nodes: int, data: st.DataObject, seed: int) -> None:
    low = data.draw(st.integers(0, nodes - 2))
    more = data.draw(st.integers(0, nodes))
    degrees = np.full(nodes, low)
    degrees[:more] += 1
    if degrees.sum() % 2:
        degrees[0 if more == nodes else more] += -1 if more == nodes else 1
    edges = with_degrees(degrees, Source(seed=seed, stream=Stream.GRAPH))
    assert edges.in_degrees.tolist() == degrees.tolist()


@pytest.mark.parametrize("name", ["random_regular", "erdos_renyi", "watts_strogatz"])
@pytest.mark.parametrize("seed", range(5))
def test_what_stays_is_connected_and_does_not_depend_on_the_step(name: str, seed: int) -> None:
    first, later = (graph(name).edges(40, step, seed) for step in (0, 9))
    assert first.is_connected
    assert np.array_equal(first.senders, later.senders)
    assert not np.array_equal(first.senders, graph(name).edges(40, 0, seed + 1).senders)


@pytest.mark.parametrize(("probability", "edges"), [(0.5, 95), (1.0, 190), (0.9, 171)])
def test_erdos_renyi_has_its_share_of_all_pairs(probability: float, edges: int) -> None:
    drawn = graph("erdos_renyi", [("probability", probability)]).edges(20, 0, 1)
    assert len(drawn.pairs()[0]) == edges


def test_erdos_renyi_favours_no_pair() -> None:
    seen = np.zeros((6, 6))
    for seed in range(600):
        drawn = graph("erdos_renyi", [("probability", 0.8)]).edges(6, 0, seed)
        seen[drawn.receivers, drawn.senders] += 1
    shares = seen[np.triu_indices(6, 1)] / 600
    assert np.abs(shares - 0.8).max() < 0.06


def test_too_few_edges_are_refused_by_name() -> None:
    with pytest.raises(NotConnected, match="100 draws of 30 nodes, none connected"):
        graph("erdos_renyi", [("probability", 0.02)]).edges(30, 0, 0)


def test_watts_strogatz_keeps_its_edges_and_rewires_a_share() -> None:
    nodes, lattice = 200, graph("watts_strogatz", [("rewire", 0.0)])
    near = lattice.edges(nodes, 0, 0)
    assert near.in_degrees.tolist() == [4] * nodes
    hops = (near.senders - near.receivers) % nodes
    assert set(hops.tolist()) == {1, 2, nodes - 1, nodes - 2}
    drawn = graph("watts_strogatz", [("rewire", 0.3)]).edges(nodes, 0, 0)
    assert len(drawn.senders) == len(near.senders)
    far = (drawn.senders - drawn.receivers) % nodes
    share = np.mean((far > 2) & (far < nodes - 2))
    assert share == pytest.approx(0.3, abs=0.06)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60), st.integers(0, 1000), st.integers(0, 10**6))
def test_matchings_pair_all_but_the_odd_one(nodes: int, step: int, seed: int) -> None:
    edges = graph("random_matching").edges(nodes, step, seed)
    assert len(edges.receivers) == nodes - nodes % 2
    assert edges.in_degrees.max() == 1
    assert not edges.directed


def test_matchings_favour_no_pair_and_change() -> None:
    seen = np.zeros((8, 8))
    for step in range(2000):
        edges = graph("random_matching").edges(8, step, 3)
        seen[edges.receivers, edges.senders] += 1
    shares = seen[np.triu_indices(8, 1)] / 2000
    assert np.abs(shares - 1 / 7).max() < 0.03


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 40), st.data(), st.integers(0, 1000), st.integers(0, 10**6))
def test_every_node_sends_to_so_many_others(
    nodes: int, data: st.DataObject, step: int, seed: int
) -> None:
    to = data.draw(st.integers(1, nodes - 1))
    edges = graph("epidemic", [("s", to)]).edges(nodes, step, seed)
    assert edges.out_degrees.tolist() == [to] * nodes
    assert (edges.receivers != edges.senders).all()


def test_senders_favour_nobody_and_how_many_hear_is_binomial() -> None:
    nodes, to, steps = 7, 2, 1500
    seen, heard = np.zeros((nodes, nodes)), []
    for step in range(steps):
        edges = graph("epidemic", [("s", to)]).edges(nodes, step, 5)
        seen[edges.receivers, edges.senders] += 1
        heard.append(edges.in_degrees)
    apart = seen[~np.eye(nodes, dtype=bool)] / steps
    assert np.abs(apart - to / (nodes - 1)).max() < 0.05
    chance = to / (nodes - 1)
    assert np.var(heard) == pytest.approx((nodes - 1) * chance * (1 - chance), rel=0.05)


def test_sending_to_all_others_is_the_plain_mean() -> None:
    schedule = built("epidemic", 6, "uniform", options={"s": 5})
    schedule.check()
    assert np.allclose(schedule.mixing(3).dense(), 1 / 6, atol=1e-15)
    assert schedule.period == 1


def test_epidemic_weights_are_the_mean_of_what_is_heard_and_the_drift_must_be_declared() -> None:
    schedule = built("epidemic", 9, "uniform", options={"s": 2, "drift": True})
    schedule.check()
    mixing = schedule.mixing(4)
    for node in range(9):
        heard = mixing.row(node)
        assert [weight for _, weight in heard] == pytest.approx([1 / len(heard)] * len(heard))
    with pytest.raises(NotStochastic, match="drift = true"):
        built("epidemic", 9, "uniform").check()


def test_no_node_sends_to_more_than_there_are() -> None:
    with pytest.raises(BadGraph, match="found 3 nodes, expected more than 3"):
        built("epidemic", 3, "uniform", options={"s": 3})
