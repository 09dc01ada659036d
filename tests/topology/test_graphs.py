"""Graphs by rule: against networkx where it has them, and by hand."""

import networkx
import numpy as np
import pytest

from tests.topology.built import GRAPHS
from weft.topology.errors import BadGraph, BadOption
from weft.topology.families import graph
from weft.topology.graphs import Complete, Graph, TwoHub, require_room


def entries(family: Graph, nodes: int, step: int = 0) -> set[tuple[int, int]]:
    edges = family.edges(nodes, step, 0)
    return set(zip(edges.receivers.tolist(), edges.senders.tolist(), strict=True))


def undirected(reference: "networkx.Graph[int]") -> set[tuple[int, int]]:
    return {(a, b) for a, b in reference.edges()} | {(b, a) for a, b in reference.edges()}


@pytest.mark.parametrize("nodes", [3, 4, 5, 8, 12])
def test_as_networkx_draws_them(nodes: int) -> None:
    assert entries(graph("complete"), nodes) == undirected(networkx.complete_graph(nodes))
    assert entries(graph("ring"), nodes) == undirected(networkx.cycle_graph(nodes))
    assert entries(graph("path"), nodes) == undirected(networkx.path_graph(nodes))
    assert entries(graph("star"), nodes) == undirected(networkx.star_graph(nodes - 1))
    circulant = networkx.circulant_graph(
        nodes, [2**bit for bit in range(8) if 2**bit < nodes], create_using=networkx.DiGraph
    )
    reached = {(a, b) for a, b in circulant.edges()}
    assert entries(graph("exponential"), nodes) <= reached


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 4), (4, 4), (4, 8), (1, 7), (2, 2)])
def test_torus_is_the_product_of_two_rings(rows: int, columns: int) -> None:
    grid = networkx.grid_2d_graph(rows, columns, periodic=True)
    number = networkx.relabel_nodes(grid, {(r, c): r * columns + c for r, c in grid})
    number.remove_edges_from(list(networkx.selfloop_edges(number)))
    assert entries(graph("torus", [("rows", rows)]), rows * columns) == undirected(number)


@pytest.mark.parametrize(("nodes", "rows"), [(16, 4), (32, 4), (12, 3), (7, 1), (4, 2)])
def test_torus_takes_the_squarest_rows(nodes: int, rows: int) -> None:
    assert entries(graph("torus"), nodes) == entries(graph("torus", [("rows", rows)]), nodes)


def test_hypercube_is_networkx_s() -> None:
    cube = networkx.hypercube_graph(4)
    number = networkx.relabel_nodes(cube, {bits: int("".join(map(str, bits)), 2) for bits in cube})
    assert entries(graph("hypercube"), 16) == undirected(number)


def test_exponential_by_hand() -> None:
    assert entries(graph("exponential"), 5) == {
        (i, (i + hop) % 5) for i in range(5) for hop in (1, 2, 4)
    }
    assert graph("exponential").edges(5, 0, 0).directed


def test_one_peer_by_hand() -> None:
    one_peer = graph("one_peer_exponential")
    assert one_peer.period(6) == 3
    for step, hop in enumerate([1, 2, 4, 1, 2]):
        assert entries(one_peer, 6, step) == {(i, (i + hop) % 6) for i in range(6)}


def test_two_hub_by_hand() -> None:
    assert entries(graph("two_hub"), 4) == {(hub, leaf) for hub in (0, 1) for leaf in (2, 3)} | {
        (leaf, hub) for hub in (0, 1) for leaf in (2, 3)
    }
    own = TwoHub().own_mixing(4, 0)
    assert own is not None
    expected = [[0.34, 0, 0.33, 0.33], [0, 0.34, 0.33, 0.33], [0.33, 0.33, 0.34, 0]]
    assert np.abs(own.dense()[:3] - np.array(expected)).max() < 1e-15


def test_two_hub_weights_end_where_rounding_leaves_none() -> None:
    assert TwoHub().own_mixing(101, 0) is not None
    assert TwoHub().own_mixing(102, 0) is None


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "file"])
def test_one_and_two_nodes_are_the_same_in_every_family(name: str) -> None:
    for step in range(3):
        assert entries(graph(name), 1, step) == set()
        assert entries(graph(name), 2, step) == {(0, 1), (1, 0)}
    graph(name).admit(1)
    graph(name).admit(2)


@pytest.mark.parametrize(
    ("name", "options", "nodes", "message"),
    [
        ("hypercube", {}, 6, "found 6 nodes, expected a power of two"),
        ("torus", {"rows": 3}, 10, "found 10 nodes in 3 rows"),
        ("random_regular", {}, 5, "there is no 3-regular graph of 5 nodes"),
        ("random_regular", {"degree": 4}, 4, "there is no 4-regular graph of 4 nodes"),
        ("watts_strogatz", {}, 4, "found 4 nodes, expected more than 4"),
        ("complete", {}, 100_000, "expected at most 50000000; take a sparser graph"),
    ],
)
def test_what_there_is_not_is_refused(
    name: str, options: dict[str, int], nodes: int, message: str
) -> None:
    with pytest.raises(BadGraph, match=message):
        graph(name, options.items()).admit(nodes)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("torus", "rows", -1),
        ("base_k", "k", 0),
        ("random_regular", "degree", 0),
        ("erdos_renyi", "probability", 1.5),
        ("watts_strogatz", "neighbours", 3),
        ("watts_strogatz", "rewire", -0.1),
        ("file", "listed", "1:2"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, option: str, value: int) -> None:
    with pytest.raises(BadOption, match=f"graph {name}: option {option}: found {value!r}"):
        graph(name, [(option, value)])


def test_room_for_all_pairs_ends_somewhere() -> None:
    Complete().admit(7000)
    with pytest.raises(BadGraph):
        require_room(50_000_001, 10)
