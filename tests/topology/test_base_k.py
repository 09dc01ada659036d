"""Base-(k+1): exact agreement in finite time for every n and k."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.topology.base_k import BaseK, blocks, factors, fewest_rounds


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_exact_in_finite_rounds(k: int) -> None:
    for nodes in range(1, 41):
        graph = BaseK(k=k)
        period = graph.period(nodes)
        assert period is not None
        total = np.eye(nodes)
        for step in range(period):
            mixing = graph.own_mixing(nodes, step)
            dense = mixing.dense()
            assert mixing.is_symmetric, (nodes, step)
            assert (dense >= 0).all()
            assert np.abs(dense.sum(axis=1) - 1).max() < 1e-15
            assert max(len(mixing.neighbours(node)) for node in range(nodes)) <= k
            total = dense @ total
        assert np.abs(total - 1 / nodes).max() < 1e-15, nodes
        assert period <= 2 * math.log(max(nodes, 2), k + 1) + 2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_shorter_prefix_is_exact_where_it_says_so(k: int) -> None:
    for nodes in range(3, 30):
        graph = BaseK(k=k)
        total = np.eye(nodes)
        for step in range((graph.period(nodes) or 1) - 1):
            total = graph.own_mixing(nodes, step).dense() @ total
        assert np.abs(total - 1 / nodes).max() > 1e-3, nodes


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 3000), st.integers(1, 7), st.integers(0, 10**6))
def test_exact_for_larger_graphs(nodes: int, k: int, seed: int) -> None:
    held = np.random.default_rng(seed).standard_normal(nodes)
    mean = held.mean()
    graph = BaseK(k=k)
    for step in range(graph.period(nodes) or 1):
        held = graph.own_mixing(nodes, step).sparse() @ held
    assert np.abs(held - mean).max() < 1e-13


def test_it_repeats_after_its_period() -> None:
    graph = BaseK(k=2)
    assert graph.own_mixing(25, 1) == graph.own_mixing(25, 1 + 3 * (graph.period(25) or 0))


def test_powers_need_one_round_a_digit() -> None:
    assert [BaseK(k=1).period(2**power) for power in range(1, 6)] == [1, 2, 3, 4, 5]
    assert [BaseK(k=2).period(3**power) for power in range(1, 4)] == [1, 2, 3]
    assert [BaseK(k=4).period(nodes) for nodes in range(2, 6)] == [1, 1, 1, 1]


def test_the_figures_of_the_paper() -> None:
    """Base-2 of 5 nodes takes 5 rounds; of 6 = 2 x 3 one less than without factors."""
    assert BaseK(k=1).period(5) == 5
    assert BaseK(k=1).period(6) == 4
    assert fewest_rounds(6, 1) == 2


def test_a_block_meets_the_rest_by_hand() -> None:
    # n = 3 = 2 + 1: round 0 joins 0 and 1; round 1 node 2 with node 0, w = 2/3; then 0 and 1.
    rounds = [BaseK(k=1).own_mixing(3, step).dense() for step in range(3)]
    assert rounds[0].tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    expected = [[1 / 3, 0, 2 / 3], [0, 1, 0], [2 / 3, 0, 1 / 3]]
    assert np.abs(rounds[1] - np.array(expected)).max() < 1e-15
    assert rounds[2].tolist() == rounds[0].tolist()


def test_blocks_cover_all_nodes() -> None:
    for nodes in range(1, 200):
        for k in (1, 2, 5):
            cut = blocks(nodes, k)
            assert sum(block.parts * block.side for block in cut) == nodes
            assert all(block.rest < block.side for block in cut)
            assert all(1 <= block.parts <= k for block in cut)


@pytest.mark.parametrize(
    ("number", "largest", "expected"),
    [(1, 2, 0), (8, 2, 3), (12, 4, 2), (36, 6, 2), (7, 6, None), (14, 4, None), (64, 8, 2)],
)
def test_fewest_factors(number: int, largest: int, expected: int | None) -> None:
    found = factors(number, largest)
    assert (None if found is None else len(found)) == expected
    if found is not None:
        assert math.prod(found) == number
        assert all(2 <= factor <= largest for factor in found)
