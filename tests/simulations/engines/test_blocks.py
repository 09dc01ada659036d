"""Blocks and crossings by hand, and against W itself."""

import numpy as np
import pytest

from weft.simulations.engines.blocks import Blocks, Crossings
from weft.simulations.errors import BadOption
from weft.topology.schedules import ScheduleParams, build_schedule


def test_blocks_are_consecutive_and_of_equal_size_up_to_one() -> None:
    for nodes in range(1, 12):
        for ranks in range(1, nodes + 1):
            blocks = Blocks(nodes=nodes, ranks=ranks)
            held = [blocks.of(rank) for rank in range(ranks)]
            assert [node for block in held for node in block] == list(range(nodes))
            sizes = [len(block) for block in held]
            assert max(sizes) - min(sizes) <= 1
            expected = [rank for rank, block in enumerate(held) for _ in block]
            assert blocks.ranks_of(np.arange(nodes)).tolist() == expected


@pytest.mark.parametrize("ranks", [0, 4])
def test_more_ranks_than_nodes_are_refused(ranks: int) -> None:
    with pytest.raises(BadOption, match=f"found {ranks} ranks for 3 nodes"):
        Blocks(nodes=3, ranks=ranks)


def test_a_star_crosses_once_to_a_rank_and_once_from_each_leaf() -> None:
    star = build_schedule(ScheduleParams(graph="star"), nodes=6, rounds=1, seed=0).mixing(0)
    crossings = Crossings.of(star, Blocks(nodes=6, ranks=3))
    # The hub, node 0, is with node 1: the others' two leaves want it, and it wants each.
    assert crossings.edges.tolist() == [[0, 2, 2], [2, 0, 0], [2, 0, 0]]
    rows = {pair: found.tolist() for pair, found in crossings.rows.items()}
    assert rows == {(0, 1): [0], (0, 2): [0], (1, 0): [2, 3], (2, 0): [4, 5]}
    assert crossings.widest == 2
    assert crossings.seen(1).tolist() == [0, 2, 3]
    assert crossings.own(1) == slice(1, 3)
    assert {by: at.tolist() for by, at in crossings.arriving(1).items()} == {0: [0]}
    assert {to: at.tolist() for to, at in crossings.leaving(1).items()} == {0: [0, 1]}


@pytest.mark.parametrize("graph", ["ring", "exponential", "complete", "random_matching"])
def test_weights_are_w_without_the_columns_that_are_not_seen(graph: str) -> None:
    mixing = build_schedule(ScheduleParams(graph=graph), nodes=10, rounds=1, seed=3).mixing(0)
    blocks = Blocks(nodes=10, ranks=4)
    crossings = Crossings.of(mixing, blocks)
    for rank in range(4):
        block, seen = blocks.of(rank), crossings.seen(rank)
        whole = np.zeros((len(block), 10))
        whole[:, seen] = crossings.weights(mixing, rank).toarray()
        assert np.array_equal(whole, mixing.dense()[block.start : block.stop])


def test_nobody_talks_and_nothing_crosses() -> None:
    silent = ScheduleParams(graph="ring", schedule="final_only")
    mixing = build_schedule(silent, nodes=4, rounds=2, seed=0).mixing(0)
    crossings = Crossings.of(mixing, Blocks(nodes=4, ranks=2))
    assert crossings.widest == crossings.edges.sum() == 0
    assert crossings.weights(mixing, 1).toarray().tolist() == [[1, 0], [0, 1]]
