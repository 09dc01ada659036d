"""Edges as arrays: canonical order, direction, connection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.topology.edges import Edges, sorted_distinct

PAIRS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30)


def edges_of(pairs: list[tuple[int, int]], nodes: int = 9) -> Edges:
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Edges.pulls(nodes, ends[:, 0], ends[:, 1])


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_entries_are_sorted_distinct_and_without_loops(pairs: list[tuple[int, int]]) -> None:
    edges = edges_of(pairs)
    found = list(zip(edges.receivers.tolist(), edges.senders.tolist(), strict=True))
    assert found == sorted({pair for pair in pairs if pair[0] != pair[1]})
    assert edges.receivers.dtype == edges.senders.dtype == np.int32
    assert edges.directed == any((b, a) not in found for a, b in found)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_pairs_hold_each_joined_two_once(pairs: list[tuple[int, int]]) -> None:
    left, right = edges_of(pairs).pairs()
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    assert found == {(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]}
    assert len(left) == len(found)


def test_between_goes_both_ways() -> None:
    edges = Edges.between(3, np.array([0, 2]), np.array([1, 1]))
    assert edges.receivers.tolist() == [0, 1, 1, 2]
    assert edges.senders.tolist() == [1, 0, 2, 1]
    assert not edges.directed


def test_degrees() -> None:
    edges = edges_of([(0, 1), (0, 2), (3, 0)], nodes=4)
    assert edges.in_degrees.tolist() == [2, 0, 0, 1]
    assert edges.out_degrees.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("pairs", "parts"),
    [
        ([(0, 1), (1, 2), (2, 0)], 1),
        ([(0, 1), (1, 2)], 3),
        ([(0, 1), (1, 0)], 2),
        ([], 3),
    ],
)
def test_connected_means_along_the_arrows(pairs: list[tuple[int, int]], parts: int) -> None:
    edges = edges_of(pairs, nodes=3)
    assert edges.parts()[0] == parts
    assert edges.is_connected == (parts == 1)


def test_one_node_is_connected() -> None:
    assert edges_of([], nodes=1).is_connected


def test_joined() -> None:
    joined = edges_of([(0, 1)], nodes=3).joined(edges_of([(0, 1), (1, 2)], nodes=3))
    assert joined.receivers.tolist() == [0, 1]
    assert joined.senders.tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5)))
def test_sorted_distinct(numbers: list[int]) -> None:
    assert sorted_distinct(np.array(numbers, dtype=np.int64)).tolist() == sorted(set(numbers))
