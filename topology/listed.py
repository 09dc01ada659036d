"""A graph that somebody wrote down, edge by edge, and how it is written.

A run carries its whole graph in its specification, so that no node needs a file:
the graph `file` has its edges as words in one option.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from weft.topology.edges import Edges, Int64
from weft.topology.errors import BadGraph, BadOption
from weft.topology.graphs import Graph, require_room

_EDGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed(Graph):
    """A graph that somebody wrote down, edge by edge (the family `file`).

    Attributes:
        listed: "0-1 1-2 2-0": nodes from 0, one word an edge. Where directed, the
            first takes from the second.
        directed: the edges go one way.
    """

    listed: str = ""
    directed: bool = False

    def __post_init__(self) -> None:
        for word in self.listed.split():
            if not _EDGE.fullmatch(word):
                raise BadOption(f"option listed: found {word!r}, expected edges such as '0-1 1-2'")

    def admit(self, nodes: int) -> None:
        """No edge may name a node beyond the last; two nodes are no exception here."""
        ends = self._ends()
        require_room(len(ends) * 2 + nodes, nodes)
        if len(ends) and ends.max() >= nodes:
            raise BadGraph(
                f"found node {ends.max()} in an edge, expected nodes 0 to {nodes - 1}; "
                "give as many nodes as the listed graph has"
            )

    def edges(self, nodes: int, step: int, seed: int) -> Edges:
        """As listed, for any number of nodes."""
        return self.drawn(nodes, step, seed)

    def drawn(self, nodes: int, step: int, seed: int) -> Edges:
        """As listed."""
        del step, seed
        left, right = self._ends().T
        if self.directed:
            return Edges.pulls(nodes, left, right)
        return Edges.between(nodes, left, right)

    def _ends(self) -> Int64:
        ends = [[int(end) for end in word.split("-")] for word in self.listed.split()]
        return np.array(ends, dtype=np.int64).reshape(-1, 2)


def listed(pairs: Iterable[tuple[int, int]]) -> str:
    """Edges as the option `listed` takes them.

    >>> listed([(0, 1), (1, 2)])
    '0-1 1-2'
    """
    return " ".join(f"{left}-{right}" for left, right in pairs)
