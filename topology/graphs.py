"""Graphs that are drawn by rule: what a family is, and the families without chance.

A family is a frozen dataclass whose fields are its options; it gives the edges for
any number of nodes that it admits. One node has no edge and two nodes have one
edge, in every family: there is no other connected graph of so few.

>>> Ring().edges(3, step=0, seed=0).senders.tolist()
[1, 2, 0, 2, 0, 1]
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from weft.topology.edges import Edges
from weft.topology.errors import BadGraph
from weft.topology.matrices import Mixing
from weft.topology.options import require

LARGEST = 50_000_000
"""Entries of one round's W that are held at once: 0.8 GB of arrays."""


class Graph(ABC):
    """A family of graphs.

    Attributes:
        exact: its own weights are the point of it; no other rule is applied.
        exchangeable: no node is special: renaming nodes changes no probability.
    """

    exact: ClassVar[bool] = False
    exchangeable: ClassVar[bool] = False

    def period(self, nodes: int) -> int | None:
        """After how many steps the edges repeat; None: drawn anew each step."""
        del nodes
        return 1

    def admit(self, nodes: int) -> None:
        """Refuse a number of nodes for which there is no such graph.

        Raises:
            BadGraph: says what is missing.
        """
        require_room(self.entries(nodes), nodes)
        if nodes > 2:
            self.exists(nodes)

    def edges(self, nodes: int, step: int, seed: int) -> Edges:
        """Who takes from whom in a step; a pure function of its arguments."""
        if nodes <= 2:
            ends = np.arange(nodes)
            return Edges.between(nodes, ends[:-1], ends[1:])
        return self.drawn(nodes, step, seed)

    def own_mixing(self, nodes: int, step: int) -> Mixing | None:
        """The weights that come with the graph; None: Metropolis will do."""
        del nodes, step
        return None

    def entries(self, nodes: int) -> int:
        """About how many entries W will have."""
        return 8 * nodes

    def exists(self, nodes: int) -> None:
        """Refuse a number of nodes, three or more, for which there is no such graph."""
        del nodes

    @abstractmethod
    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """The edges for three nodes or more."""


def require_room(entries: int, nodes: int) -> None:
    """Refuse a mixing matrix that would not fit into memory."""
    if entries > LARGEST:
        raise BadGraph(
            f"found {entries} weights a round for {nodes} nodes, expected at most {LARGEST}; "
            "take a sparser graph"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Graph):
    """Everybody with everybody."""

    exchangeable: ClassVar[bool] = True

    def entries(self, nodes: int) -> int:
        """All of them."""
        return nodes * nodes

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """All pairs."""
        del step, seed
        left, right = np.triu_indices(nodes, 1)
        return Edges.between(nodes, left, right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring(Graph):
    """Each with the next and the one before."""

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Node i with i + 1, around."""
        del step, seed
        index = np.arange(nodes)
        return Edges.between(nodes, index, (index + 1) % nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path(Graph):
    """A ring that is cut once."""

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Node i with i + 1."""
        del step, seed
        index = np.arange(nodes)
        return Edges.between(nodes, index[:-1], index[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Star(Graph):
    """Node 0 with everybody."""

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """0 with i."""
        del step, seed
        leaves = np.arange(1, nodes)
        return Edges.between(nodes, np.zeros_like(leaves), leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Torus(Graph):
    """A grid whose borders meet: each with four neighbours.

    Where two rows or columns are all there are, neighbours fall together; one row
    is a ring.

    Attributes:
        rows: how many; 0: the largest divisor of the nodes up to their root.
    """

    rows: int = 0

    def __post_init__(self) -> None:
        require(self.rows >= 0, "rows", self.rows, "at least 0")

    def exists(self, nodes: int) -> None:
        """The rows must divide the nodes."""
        if self.rows and nodes % self.rows:
            raise BadGraph(
                f"found {nodes} nodes in {self.rows} rows, expected rows of equal length; "
                "take a number of rows that divides the nodes"
            )

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Row-major: each with its right and its lower neighbour."""
        del step, seed
        rows = self.rows or next(
            rows for rows in range(math.isqrt(nodes), 0, -1) if nodes % rows == 0
        )
        columns = nodes // rows
        index = np.arange(nodes)
        right = index // columns * columns + (index + 1) % columns
        below = (index + columns) % nodes
        return Edges.between(nodes, np.tile(index, 2), np.concatenate([right, below]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypercube(Graph):
    """Nodes whose numbers differ in one bit."""

    def exists(self, nodes: int) -> None:
        """Only for powers of two."""
        if nodes & (nodes - 1):
            raise BadGraph(
                f"found {nodes} nodes, expected a power of two; "
                "exponential and base_k take any number"
            )

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Node i with i xor 2^b."""
        del step, seed
        index = np.arange(nodes)
        bits = [index ^ (1 << bit) for bit in range(nodes.bit_length() - 1)]
        return Edges.between(nodes, np.tile(index, len(bits)), np.concatenate(bits))

    def entries(self, nodes: int) -> int:
        """One a bit."""
        return nodes * nodes.bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential(Graph):
    """Each takes from those at distance 1, 2, 4, ...: directed, ceil(log2 n) each.

    Source: Ying et al. 2021, "Exponential graph is provably efficient for
        decentralized deep training", static exponential graph.
    """

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Node i from i + 2^b, around."""
        del step, seed
        index = np.arange(nodes)
        senders = [(index + (1 << bit)) % nodes for bit in range((nodes - 1).bit_length())]
        return Edges.pulls(nodes, np.tile(index, len(senders)), np.concatenate(senders))

    def entries(self, nodes: int) -> int:
        """One a bit."""
        return nodes * nodes.bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePeerExponential(Graph):
    """In step t each takes from the one at distance 2^(t mod ceil(log2 n)).

    Exact after one period for powers of two, and for those only.

    Source: as `Exponential`, one-peer exponential graph.
    """

    def period(self, nodes: int) -> int | None:
        """One step a bit."""
        return max(1, (nodes - 1).bit_length())

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Node i from i + 2^b, around, with b the step's."""
        del seed
        index = np.arange(nodes)
        bit = step % (nodes - 1).bit_length()
        return Edges.pulls(nodes, index, (index + (1 << bit)) % nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoHub(Graph):
    """Two hubs, nodes 0 and 1, each with all leaves; the hubs are not joined.

    Its own weights are a = floor(100 / (n - 1)) / 100 on every edge, as in the code
    that DIMAT was released with (there: "bipartite").

    Source: Saadati et al. 2024, "DIMAT: Decentralized iterative merging-and-training
        for deep learning models".
    """

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """0 and 1 with every other."""
        del step, seed
        leaves = np.arange(2, nodes)
        hubs = np.repeat([0, 1], nodes - 2)
        return Edges.between(nodes, hubs, np.tile(leaves, 2))

    def own_mixing(self, nodes: int, step: int) -> Mixing | None:
        """DIMAT's weights; beyond 101 nodes their rounding would leave none."""
        if not 2 < nodes <= 101:
            return None
        edges = self.edges(nodes, step, 0)
        weight = (100 // (nodes - 1)) / 100
        weights = np.full(len(edges.receivers), weight)
        return Mixing.of(edges, weights, 1.0 - edges.taken(weights))
