"""Sparse gossip: a few exchanges a round, drawn anew each round.

`expected` counts exchanges per node and round. Symmetric exchanges join pairs, so
that no average drifts; one-way pulls take without giving. Over the complete graph
pairs are drawn from all nodes, and no list of all pairs is ever made; over another
graph they are drawn from its edges.

Source: Zhu et al. 2025, "On the surprising effectiveness of a single global merging
    in decentralized learning", arXiv:2507.06542 (each node pulls from one random
    peer with probability R = 0.2). Departure: symmetric by default, and with
    exactly the expected number of pairs up to one, drawn at random.
"""

import numpy as np
from numpy.typing import NDArray

from weft.topology.draws import Source
from weft.topology.edges import Edges, Int64
from weft.topology.random_graphs import distinct_hops, with_degrees


def pairs_anywhere(nodes: int, expected: float, counts: Source, source: Source) -> Edges:
    """Exchanges between random pairs of all nodes.

    Up to one a node they form a matching; beyond that a random graph whose degrees
    differ by at most one; from nodes - 1 on the complete graph.
    """
    most = nodes // 2 if expected <= 1 else nodes * (nodes - 1) // 2
    pairs = min(most, _rounded(expected * nodes / 2, float(counts.fractions(1)[0])))
    order = source.permutation(nodes)
    if expected <= 1:
        return Edges.between(nodes, order[:pairs], order[pairs : 2 * pairs])
    degrees = np.full(nodes, 2 * pairs // nodes)
    degrees[order[: 2 * pairs - degrees.sum()]] += 1
    return with_degrees(degrees, source)


def pulls_anywhere(nodes: int, expected: float, counts: Source, source: Source) -> Edges:
    """Each node takes from random others: the whole part surely, the fraction by chance."""
    wanted = np.minimum(_counts(nodes, expected, counts), nodes - 1)
    most = int(wanted.max(initial=0))
    hops = distinct_hops(nodes, most, source)
    receivers = np.tile(np.arange(nodes), most)
    senders = ((np.arange(nodes) + hops) % nodes).reshape(-1)
    taken = np.repeat(np.arange(most), nodes) < np.tile(wanted, most)
    return Edges.pulls(nodes, receivers[taken], senders[taken])


def pairs_along(edges: Edges, expected: float, source: Source) -> Edges:
    """Each pair that the graph joins, in either direction, by chance and on its own."""
    left, right = edges.pairs()
    used = source.fractions(len(left)) < pair_probability(edges, expected)
    return Edges.between(edges.nodes, left[used], right[used])


def pulls_along(edges: Edges, expected: float, counts: Source, source: Source) -> Edges:
    """Each node takes from random ones among those that the graph gives it."""
    wanted = _counts(edges.nodes, expected, counts)
    order = np.lexsort((source.words(len(edges.receivers)), edges.receivers))
    starts = np.concatenate([[0], np.cumsum(edges.in_degrees)])
    rank = np.arange(len(order)) - starts[edges.receivers]
    chosen = order[rank < wanted[edges.receivers]]
    return Edges.pulls(edges.nodes, edges.receivers[chosen], edges.senders[chosen].astype(np.int64))


def pair_probability(edges: Edges, expected: float) -> float:
    """With which each joined pair is used, so that a node has the expected exchanges."""
    pairs = len(edges.pairs()[0])
    return min(1.0, expected * edges.nodes / (2 * pairs)) if pairs else 0.0


def _rounded(number: float, fraction: float) -> int:
    whole = int(number)
    return whole + (fraction < number - whole)


def _counts(nodes: int, expected: float, counts: Source) -> Int64:
    whole = int(expected)
    more: NDArray[np.bool_] = counts.fractions(nodes) < expected - whole
    return whole + more.astype(np.int64)
