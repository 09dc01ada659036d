"""The base-(k+1) graph: exact agreement in finitely many rounds, for any n.

Every node has at most k neighbours in a round. Derived from the idea of the paper,
in three layers:

*Cliques by digits.* Let n = f_0 f_1 ... with all factors at most k + 1. Number the
nodes by mixed-radix digits; in round t those that differ in digit t only average,
1 / f_t each. After all digits everybody holds the mean.

*Any n.* Write n in base k + 1, n = sum_l a_l s_l with s_l = (k + 1)^p_l falling and
1 <= a_l <= k, and cut the nodes into blocks of a_l s_l, each of a_l parts of s_l.
First every block averages within itself by digits. Then the blocks settle in turn:
in its turn block l meets the rest R, the r nodes of all later blocks; as r < s_l,
each node of R has one partner of its own in each of the a_l parts. The edge weight
w = s_l / (a_l s_l + r) gives each part, and R, the mean of block and rest together:
a part's sum moves by r w (mean_R - mean_l) = s_l (mean - mean_l). Every part that
has the mean in sum then averages by digits within itself, while later blocks go on.
All nodes of a later block stay equal to each other meanwhile; so the last block,
once its mean is right, holds it in every node. At most 2 log_{k+1}(n) + 2 rounds.

*Factors.* Where q divides n and has factors at most k + 1, n / q nodes can agree as
above in q copies side by side, and the copies then by digits. The shortest is taken.

Source: Takezawa et al. 2023, "Beyond exponential graph: communication-efficient
    topology for decentralized learning via finite-time convergence",
    arXiv:2305.11420: k-peer hyper-hypercube, simple base-(k+1) graph, base-(k+1)
    graph. Departure: the factor q is searched for rather than the largest one.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeAlias

import numpy as np

from weft.topology.edges import Edges, Float64, Int64
from weft.topology.graphs import Graph
from weft.topology.matrices import Mixing
from weft.topology.options import require

Entries: TypeAlias = tuple[Int64, Int64, Float64]
"""Receivers, senders, weights of some edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`parts` parts of radix^digits nodes each, from node `start` on; `rest` follow."""

    start: int
    parts: int
    digits: int
    radix: int
    rest: int

    @property
    def side(self) -> int:
        """Nodes of one part."""
        return int(self.radix**self.digits)

    @property
    def rounds_within(self) -> int:
        """Rounds until the block agrees within itself."""
        return self.digits + (self.parts > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseK(Graph):
    """The base-(k+1) graph with its own weights.

    Attributes:
        k: the most neighbours that a node has in a round.
    """

    exact: ClassVar[bool] = True
    k: int = 1

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", self.k, "at least 1")

    def period(self, nodes: int) -> int | None:
        """Rounds until agreement is exact."""
        copies = fewest_rounds(nodes, self.k)
        return max(1, _length(nodes // copies, self.k) + len(factors(copies, self.k + 1) or ()))

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """The edges of the round's own weights."""
        del seed
        mixing = self.own_mixing(nodes, step)
        between = mixing.between
        receivers, senders = mixing.receivers[between], mixing.senders[between]
        return Edges.pulls(nodes, receivers, senders.astype(np.int64))

    def own_mixing(self, nodes: int, step: int) -> Mixing:
        """W of a round: symmetric, doubly stochastic."""
        round = step % (self.period(nodes) or 1)
        copies = fewest_rounds(nodes, self.k)
        alone = nodes // copies
        before = _length(alone, self.k)
        if round < before:
            found = _side_by_side(_any_round(alone, self.k, round), alone, copies)
        else:
            digits = factors(copies, self.k + 1) or ()
            found = _by_digit(0, nodes, alone, digits, round - before)
        return _with_rest(nodes, found)

    def entries(self, nodes: int) -> int:
        """At most k neighbours and itself."""
        return nodes * (min(self.k, nodes) + 1)


@lru_cache(maxsize=1024)
def factors(number: int, largest: int) -> tuple[int, ...] | None:
    """The fewest factors of at most `largest` whose product is the number, or None."""
    if number == 1:
        return ()
    best: tuple[int, ...] | None = None
    for factor in range(min(largest, number), 1, -1):
        if number % factor:
            continue
        others = factors(number // factor, factor)
        if others is not None and (best is None or len(others) + 1 < len(best)):
            best = (factor, *others)
    return best


@lru_cache(maxsize=1024)
def fewest_rounds(nodes: int, k: int) -> int:
    """The number of copies q that gives the fewest rounds; of equals the largest."""
    rounds: dict[int, int] = {}
    for copies in range(nodes, 0, -1):
        if nodes % copies == 0 and (digits := factors(copies, k + 1)) is not None:
            rounds[copies] = len(digits) + _length(nodes // copies, k)
    return min(rounds, key=lambda copies: rounds[copies])


@lru_cache(maxsize=1024)
def blocks(nodes: int, k: int) -> tuple[Block, ...]:
    """The nodes cut by the digits of their number in base k + 1, largest first."""
    digits: list[tuple[int, int]] = []
    left = nodes
    while left:
        left, digit = divmod(left, k + 1)
        digits.append((digit, len(digits)))
    found: list[Block] = []
    start = 0
    for parts, power in reversed(digits):
        if parts:
            rest = nodes - start - parts * (k + 1) ** power
            found.append(Block(start=start, parts=parts, digits=power, radix=k + 1, rest=rest))
            start = nodes - rest
    return tuple(found)


def _length(nodes: int, k: int) -> int:
    """Rounds of the construction for any n: within, then the first block's turn and digits."""
    cut = blocks(nodes, k)
    within = max(block.rounds_within for block in cut)
    return within if len(cut) == 1 else within + 1 + cut[0].digits


def _any_round(nodes: int, k: int, round: int) -> Entries:
    """One round of the construction for any n."""
    cut = blocks(nodes, k)
    within = max(block.rounds_within for block in cut)
    found: list[Entries] = []
    for turn, block in enumerate(cut):
        since = round - within - turn
        size = block.parts * block.side
        if round < within:
            digits = (block.radix,) * block.digits + (block.parts,) * (block.parts > 1)
            found.append(_by_digit(block.start, size, 1, digits, round))
        elif since == 0:
            found.append(_turn(block))
        elif since > 0 and block.rest:
            digits = (block.radix,) * block.digits
            found.append(_by_digit(block.start, size, 1, digits, since - 1))
    return _joined(found)


def _by_digit(
    start: int, size: int, stride: int, digits: tuple[int, ...], position: int
) -> Entries:
    """Cliques of the nodes that differ in one digit; none beyond the last digit."""
    if position >= len(digits):
        return _joined([])
    for factor in digits[:position]:
        stride *= factor
    factor = digits[position]
    index = np.arange(size)
    digit = index // stride % factor
    hops = range(1, factor)
    senders = [index + ((digit + hop) % factor - digit) * stride for hop in hops]
    count = size * (factor - 1)
    receivers = np.tile(index, factor - 1)
    return receivers + start, np.concatenate(senders) + start, np.full(count, 1.0 / factor)


def _turn(block: Block) -> Entries:
    """A block meets the rest: node j of the rest with node j of each part."""
    rest = np.tile(np.arange(block.rest), block.parts)
    part = np.repeat(np.arange(block.parts), block.rest)
    inside = block.start + part * block.side + rest
    outside = block.start + block.parts * block.side + rest
    weight = block.side / (block.parts * block.side + block.rest)
    receivers = np.concatenate([inside, outside])
    return receivers, np.concatenate([outside, inside]), np.full(len(receivers), weight)


def _side_by_side(entries: Entries, nodes: int, copies: int) -> Entries:
    receivers, senders, weights = entries
    offsets = np.repeat(np.arange(copies) * nodes, len(receivers))
    return (
        np.tile(receivers, copies) + offsets,
        np.tile(senders, copies) + offsets,
        np.tile(weights, copies),
    )


def _joined(found: list[Entries]) -> Entries:
    none: Entries = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    receivers, senders, weights = zip(none, *found, strict=True)
    return np.concatenate(receivers), np.concatenate(senders), np.concatenate(weights)


def _with_rest(nodes: int, found: Entries) -> Mixing:
    """Entries in canonical order, the rest of each row to self."""
    receivers, senders, weights = found
    edges = Edges.pulls(nodes, receivers, senders)
    order = np.argsort(receivers * nodes + senders, kind="stable")
    weights = weights[order]
    return Mixing.of(edges, weights, 1.0 - edges.taken(weights))
