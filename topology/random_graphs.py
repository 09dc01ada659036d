"""Graphs drawn by chance, the same on every machine for the same seed.

Those that stay for the whole run are drawn until one is connected. No python loop
runs over nodes or edges. The algorithms are ours: networkx's depend on its version.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from weft.topology.draws import Source, Stream
from weft.topology.edges import Edges, Int64
from weft.topology.errors import BadGraph, NotConnected
from weft.topology.graphs import Graph
from weft.topology.options import require

CONNECTED_DRAWS = 100
FAR_ENDS = 20
REPAIRS = 5_000


class DrawnOnce(Graph):
    """A graph that is drawn before the first round, and stays."""

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """The first connected draw.

        Raises:
            NotConnected: none of a hundred was.
        """
        del step
        for attempt in range(CONNECTED_DRAWS):
            edges = self.draw(nodes, Source(seed=seed, round=attempt, stream=Stream.GRAPH))
            if edges.is_connected:
                return edges
        raise NotConnected(
            f"found {CONNECTED_DRAWS} draws of {nodes} nodes, none connected, expected one; "
            "ask for more edges or another seed"
        )

    def draw(self, nodes: int, source: Source) -> Edges:
        """One draw, connected or not."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomRegular(DrawnOnce):
    """Every node with the same number of neighbours, chosen by chance.

    Attributes:
        degree: how many.
    """

    degree: int = 3

    def __post_init__(self) -> None:
        require(self.degree >= 1, "degree", self.degree, "at least 1")

    def exists(self, nodes: int) -> None:
        """Needs more nodes than neighbours, and an even number of edge ends."""
        if self.degree >= nodes:
            raise BadGraph(
                f"found {nodes} nodes, expected more than {self.degree}: there is no "
                f"{self.degree}-regular graph of {nodes} nodes"
            )
        if self.degree * nodes % 2:
            raise BadGraph(
                f"found {nodes} nodes, expected an even number: there is no "
                f"{self.degree}-regular graph of {nodes} nodes"
            )

    def draw(self, nodes: int, source: Source) -> Edges:
        """Pairs of stubs."""
        return with_degrees(np.full(nodes, self.degree), source)

    def entries(self, nodes: int) -> int:
        """The neighbours and itself."""
        return nodes * (self.degree + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErdosRenyi(DrawnOnce):
    """G(n, M): M of the n (n - 1) / 2 possible edges, all sets equally likely.

    Attributes:
        probability: M is this share of all pairs, rounded; 0: about twice what is
            needed to be connected, 1.5 ceil(log2 n) / n.

    Source: Erdős and Rényi 1959, "On random graphs I".
    """

    probability: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "probability", self.probability, "0 to 1")

    def draw(self, nodes: int, source: Source) -> Edges:
        """M numbers of pairs, unfolded to rows and columns of the upper triangle."""
        pairs = nodes * (nodes - 1) // 2
        left, right = _unfolded(nodes, source.distinct(pairs, self._count(nodes)))
        return Edges.between(nodes, left, right)

    def entries(self, nodes: int) -> int:
        """Two an edge, and itself."""
        return 2 * self._count(nodes) + nodes

    def _count(self, nodes: int) -> int:
        share = self.probability or min(1.0, 1.5 * (nodes - 1).bit_length() / nodes)
        return round(share * (nodes * (nodes - 1) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class WattsStrogatz(DrawnOnce):
    """A ring with near neighbours, some of whose edges lead elsewhere.

    Attributes:
        neighbours: how many each starts with, an even number.
        rewire: the share of edges whose far end is drawn anew. An edge that finds
            no free place in a few draws stays where it was.

    Source: Watts and Strogatz 1998, "Collective dynamics of small-world networks";
        all edges are rewired at once here, not one after another.
    """

    neighbours: int = 4
    rewire: float = 0.1

    def __post_init__(self) -> None:
        even = self.neighbours >= 2 and self.neighbours % 2 == 0
        require(even, "neighbours", self.neighbours, "an even number, at least 2")
        require(0 <= self.rewire <= 1, "rewire", self.rewire, "0 to 1")

    def exists(self, nodes: int) -> None:
        """Needs more nodes than neighbours."""
        if nodes <= self.neighbours:
            raise BadGraph(
                f"found {nodes} nodes, expected more than {self.neighbours}, the neighbours "
                "that each starts with; ask for fewer"
            )

    def draw(self, nodes: int, source: Source) -> Edges:
        """The lattice, then new far ends, those again that clash, and the last ones back."""
        index = np.arange(nodes)
        near = np.tile(index, self.neighbours // 2)
        hops = np.repeat(np.arange(1, self.neighbours // 2 + 1), nodes)
        lattice = (near + hops) % nodes
        moving = source.fractions(len(near)) < self.rewire
        far = lattice.copy()
        for attempt in range(1, FAR_ENDS):
            far[moving] = source.below(nodes, len(far), attempt)[moving]
            moving = _clashing(np.stack([near, far]), nodes, before=~moving)
        while moving.any():
            far[moving] = lattice[moving]
            moving = _clashing(np.stack([near, far]), nodes, before=far == lattice)
        return Edges.between(nodes, near, far)

    def entries(self, nodes: int) -> int:
        """The neighbours and itself."""
        return nodes * (self.neighbours + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomMatching(Graph):
    """Each step pairs the nodes anew; with an odd number one stays alone."""

    exchangeable: ClassVar[bool] = True

    def period(self, nodes: int) -> int | None:
        """Never repeats, but for two nodes, which always meet."""
        return 1 if nodes <= 2 else None

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Neighbours in a random order."""
        order = Source(seed=seed, round=step, stream=Stream.MATCHING).permutation(nodes)
        half = nodes // 2
        return Edges.between(nodes, order[:half], order[half : 2 * half])


@dataclass(frozen=True, slots=True, kw_only=True)
class Epidemic(Graph):
    """In each step every node sends to some others, chosen by chance; how many hear varies.

    Its rule of weights is `uniform`, the plain mean of what a node has and hears, under
    which the average drifts: declare that with `drift = true`, or take `push_sum`.

    Attributes:
        s: to how many each sends.

    Source: de Vos et al. 2023, "Epidemic learning: boosting decentralized learning with
        randomized communication", EL-Local.
    """

    exchangeable: ClassVar[bool] = True
    s: int = 2

    def __post_init__(self) -> None:
        require(self.s >= 1, "s", self.s, "at least 1")

    def exists(self, nodes: int) -> None:
        """Needs as many others as each sends to."""
        if self.s >= nodes:
            raise BadGraph(
                f"found {nodes} nodes, expected more than {self.s}, "
                "the number of others that each sends to; ask for fewer"
            )

    def period(self, nodes: int) -> int | None:
        """Never repeats, but where all send to all."""
        return 1 if nodes <= 2 or self.s == nodes - 1 else None

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """Different hops for each sender."""
        source = Source(seed=seed, round=step, stream=Stream.GRAPH)
        receivers = (np.arange(nodes) + distinct_hops(nodes, self.s, source)) % nodes
        return Edges.pulls(nodes, receivers.reshape(-1), np.tile(np.arange(nodes), self.s))

    def entries(self, nodes: int) -> int:
        """Those that it sends to, and itself."""
        return nodes * (self.s + 1)


def distinct_hops(nodes: int, count: int, source: Source) -> Int64:
    """(count, nodes): for each node `count` different hops of 1 .. nodes - 1.

    Pick after pick from those that are left: the number drawn is moved past the
    smaller ones that were taken before.
    """
    taken = np.empty((0, nodes), dtype=np.int64)
    for pick in range(count):
        hop = source.below(nodes - 1 - pick, nodes, pick) + 1
        for earlier in taken:
            hop += hop >= earlier
        taken = np.sort(np.concatenate([taken, hop[None]]), axis=0)
    return taken


def with_degrees(degrees: Int64, source: Source) -> Edges:
    """A random simple graph with given degrees, near-regular ones above all.

    Stubs are paired at random; while there are loops or repetitions, their stubs
    are paired anew together with some others, where that leaves no more of them.
    Dense graphs are drawn as the complement of sparse ones. Nearly, not exactly,
    uniform over all such graphs.

    Args:
        degrees: (nodes,) with an even sum, each below the number of nodes.
        source: where the words come from.

    Raises:
        BadGraph: found none; the degrees are far from regular.
    """
    nodes = len(degrees)
    if 2 * degrees.sum() > nodes * (nodes - 1):
        return _complement(with_degrees(nodes - 1 - degrees, source))
    stubs = np.repeat(np.arange(nodes), degrees)
    ends = stubs[source.permutation(len(stubs))].reshape(2, -1)
    clashing = _clashing(ends, nodes)
    for attempt in range(1, REPAIRS):
        if not clashing.any():
            return Edges.between(nodes, ends[0], ends[1])
        rank = source.permutation(len(clashing), 2 * attempt)
        again = clashing | (rank < np.count_nonzero(clashing) + 1)
        loose = ends[:, again].reshape(-1)
        tried = ends.copy()
        tried[:, again] = loose[source.permutation(len(loose), 2 * attempt + 1)].reshape(2, -1)
        found = _clashing(tried, nodes)
        if np.count_nonzero(found) <= np.count_nonzero(clashing):
            ends, clashing = tried, found
    raise BadGraph(f"found no graph of {nodes} nodes with these degrees, expected one")


def _clashing(
    ends: Int64, nodes: int, before: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Which edges, (2, edges), are loops, or repeat an earlier one in either direction.

    Earlier are those that are marked as `before`, then those of lower index.
    """
    keys = ends.min(axis=0) * nodes + ends.max(axis=0)
    order = np.arange(len(keys)) if before is None else np.argsort(~before, kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    clashing = np.ones(len(keys), dtype=np.bool_)
    clashing[order[first]] = False
    return np.asarray(clashing | (ends[0] == ends[1]))


def _complement(edges: Edges) -> Edges:
    joined = np.ones((edges.nodes, edges.nodes), dtype=np.bool_)
    joined[edges.receivers, edges.senders] = False
    left, right = np.nonzero(np.triu(joined, 1))
    return Edges.between(edges.nodes, left, right)


def _unfolded(nodes: int, numbers: Int64) -> tuple[Int64, Int64]:
    """Row and column of the upper triangle's cells, numbered row after row."""
    starts = np.concatenate([[0], np.cumsum(np.arange(nodes - 1, 0, -1))])
    rows = np.searchsorted(starts, numbers, side="right") - 1
    return rows, numbers - starts[rows] + rows + 1
