"""Which rank holds which nodes, and which rows cross from rank to rank in a round. Pure.

>>> Blocks(nodes=5, ranks=2).of(0), Blocks(nodes=5, ranks=2).of(1)
(range(0, 2), range(2, 5))
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft.simulations.errors import BadOption
from weft.topology.matrices import Mixing

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Nodes in consecutive blocks, one a rank, of equal size up to one node.

    Raises:
        BadOption: no ranks, or more than nodes.
    """

    nodes: int
    ranks: int

    def __post_init__(self) -> None:
        if not 1 <= self.ranks <= self.nodes:
            raise BadOption(
                f"found {self.ranks} ranks for {self.nodes} nodes, expected 1 to {self.nodes}: "
                "every rank holds at least one node"
            )

    def of(self, rank: int) -> range:
        """The nodes of a rank."""
        return range(rank * self.nodes // self.ranks, (rank + 1) * self.nodes // self.ranks)

    def ranks_of(self, nodes: NDArray[np.integer]) -> Int64:
        """(k,) the rank of each node."""
        starts = np.arange(1, self.ranks) * self.nodes // self.ranks
        return np.searchsorted(starts, nodes, side="right").astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crossings:
    """What leaves its rank under one W.

    A row goes to another rank once, however many of that rank's nodes take from it.

    Attributes:
        edges: (ranks, ranks) entries of W from a rank's nodes to another's: the models
            that cross where every edge carries its own.
        rows: by (from, to), the nodes whose rows go, in order.
    """

    blocks: Blocks
    edges: Int64
    rows: dict[tuple[int, int], Int64]

    @classmethod
    def of(cls, mixing: Mixing, blocks: Blocks) -> "Crossings":
        """Of W; entries without weight carry nothing."""
        senders, receivers = mixing.senders[mixing.between], mixing.receivers[mixing.between]
        away, home = blocks.ranks_of(senders), blocks.ranks_of(receivers)
        crosses = away != home
        edges = np.zeros((blocks.ranks, blocks.ranks), dtype=np.int64)
        np.add.at(edges, (away[crosses], home[crosses]), 1)
        # One number a (row, rank) pair; nodes are in blocks, so pairs sort by rank as well.
        pairs = np.unique(home[crosses] * blocks.nodes + senders[crosses])
        to, row = np.divmod(pairs, blocks.nodes)
        of_pair = blocks.ranks_of(row) * blocks.ranks + to
        rows = {
            divmod(int(pair), blocks.ranks): row[of_pair == pair] for pair in np.unique(of_pair)
        }
        return cls(blocks=blocks, edges=edges, rows=rows)

    @property
    def widest(self) -> int:
        """The most rows that one rank sends another."""
        return max((len(rows) for rows in self.rows.values()), default=0)

    def leaving(self, rank: int) -> dict[int, Int64]:
        """What a rank sends, by rank that takes it: places in its own block."""
        first = self.blocks.of(rank).start
        return {to: rows - first for (by, to), rows in self.rows.items() if by == rank}

    def arriving(self, rank: int) -> dict[int, Int64]:
        """What a rank takes, by rank that sends it, in order: places among all that it sees."""
        seen = self.seen(rank)
        return {
            by: np.searchsorted(seen, rows)
            for (by, to), rows in sorted(self.rows.items())
            if to == rank
        }

    def own(self, rank: int) -> slice:
        """A rank's own nodes, as places among all that it sees."""
        block = self.blocks.of(rank)
        start = int(np.searchsorted(self.seen(rank), block.start))
        return slice(start, start + len(block))

    def seen(self, rank: int) -> Int64:
        """The nodes whose rows a rank sees: its own and those that arrive, in order."""
        arriving = [rows for (_, to), rows in self.rows.items() if to == rank]
        return np.sort(np.concatenate([np.asarray(self.blocks.of(rank)), *arriving]))

    def weights(self, mixing: Mixing, rank: int) -> "csr_array":
        """(block, seen) float64: the rank's rows of W, each by sender as in W itself."""
        from scipy.sparse import csr_array

        block, seen = self.blocks.of(rank), self.seen(rank)
        bounds = np.searchsorted(mixing.receivers, [block.start, block.stop])
        mine = np.arange(*bounds)
        kept = mine[(mixing.weights[mine] > 0) | (mixing.senders[mine] == mixing.receivers[mine])]
        starts = np.searchsorted(mixing.receivers[kept], np.arange(block.start, block.stop + 1))
        columns = np.searchsorted(seen, mixing.senders[kept]).astype(np.int32)
        return csr_array(
            (mixing.weights[kept], columns, starts.astype(np.int32)), shape=(len(block), len(seen))
        )
