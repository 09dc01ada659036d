"""Scaling to sums of one: slow graphs, directed graphs, and those that cannot be."""

import numpy as np
import pytest

from tests.topology.built import built
from weft.topology.edges import Edges
from weft.topology.errors import NotStochastic
from weft.topology.sinkhorn import sinkhorn


@pytest.mark.parametrize(("graph", "nodes"), [("path", 2000), ("star", 300), ("erdos_renyi", 500)])
def test_newton_scales_what_alternating_would_not(graph: str, nodes: int) -> None:
    mixing = sinkhorn(built(graph, nodes).graph.edges(nodes, 0, 0))
    ones = np.ones(nodes)
    assert np.abs(mixing.sparse() @ ones - 1).max() < 1e-14
    assert np.abs(mixing.sparse().T @ ones - 1).max() < 1e-14
    assert mixing.weights.min() > 0


def test_it_is_a_scaling_of_the_pattern() -> None:
    # D1 B D2 has W_ij W_ji = W_ii W_jj on every edge of a pattern of ones.
    dense = sinkhorn(built("erdos_renyi", 15).graph.edges(15, 0, 0)).dense()
    rows, columns = np.nonzero(np.triu(dense, 1))
    own = np.diag(dense)
    assert np.abs(dense[rows, columns] ** 2 - own[rows] * own[columns]).max() < 1e-12


def test_alternating_agrees_with_newton() -> None:
    edges = built("star", 6).graph.edges(6, 0, 0)
    directed = Edges(edges.nodes, edges.receivers, edges.senders, directed=True)
    assert np.abs(sinkhorn(edges).dense() - sinkhorn(directed).dense()).max() < 1e-12


def test_a_directed_graph_without_total_support_is_refused() -> None:
    one_way = Edges.pulls(2, np.array([0]), np.array([1]))
    with pytest.raises(NotStochastic, match="no scaling of the 2 nodes' directed edges"):
        sinkhorn(one_way)
