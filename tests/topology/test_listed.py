"""The graph that a run carries as text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.topology.errors import BadGraph
from weft.topology.families import graph
from weft.topology.listed import listed


def entries(text: str, nodes: int, *, directed: bool = False) -> set[tuple[int, int]]:
    edges = graph("file", [("listed", text), ("directed", directed)]).edges(nodes, 0, 0)
    return set(zip(edges.receivers.tolist(), edges.senders.tolist(), strict=True))


@settings(max_examples=50, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda e: e[0] != e[1])))
def test_what_is_listed_is_read(pairs: set[tuple[int, int]]) -> None:
    assert entries(listed(pairs), 21, directed=True) == pairs
    assert entries(listed(pairs), 21) == pairs | {(b, a) for a, b in pairs}


def test_where_directed_the_first_takes_from_the_second() -> None:
    edges = graph("file", [("listed", "0-1 1-2 2-0"), ("directed", True)]).edges(3, 0, 0)
    assert edges.receivers.tolist() == [0, 1, 2]
    assert edges.senders.tolist() == [1, 2, 0]
    assert edges.directed


def test_two_nodes_are_joined_only_if_they_are_listed() -> None:
    assert entries("", 2) == set()
    assert entries("0-1", 2) == {(0, 1), (1, 0)}


def test_a_node_beyond_the_last_is_refused() -> None:
    with pytest.raises(BadGraph, match="found node 7 in an edge, expected nodes 0 to 4"):
        graph("file", [("listed", "0-1 3-7")]).admit(5)
