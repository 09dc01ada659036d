"""Nodes in blocks on ranks: each rank holds its own rows, and others' a block at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.simulations.engines.blocks import Blocks, Crossings
from weft.simulations.engines.exchange import COLUMNS
from weft.simulations.engines.meeting import Meeting
from weft.topology.matrices import Mixing

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLOCK = 1 << 20
"""Values that a rank receives from another at a time: 4 MiB."""


class Ranks:
    """The exchange of one rank among others; every method is a collective.

    A row goes once to each rank that wants it, between the two ranks alone, in blocks of
    columns. What arrives is one block a neighbour and is gone before the next one comes.
    Weighted means are those of `Here` to the bit: the same sums in the same order. Means
    over all nodes are sums of the ranks' sums, equal to rounding in float64.

    Args:
        meeting: the ranks.
        nodes: how many there are in all.
        block: values that are received from one rank at a time.

    Attributes:
        blocks: who holds which nodes.
        sent: (ranks,) int64 bytes of rows that this rank sent each other one.
        edges: (ranks,) int64 bytes that it would have sent had every edge of W carried its
            own copy: what `weft topology` counts, of edges that cross ranks.

    Raises:
        BadOption: more ranks than nodes.
    """

    def __init__(self, meeting: Meeting, nodes: int, block: int = BLOCK) -> None:
        self.blocks = Blocks(nodes=nodes, ranks=meeting.size)
        self.sent: NDArray[np.int64] = np.zeros(meeting.size, dtype=np.int64)
        self.edges: NDArray[np.int64] = np.zeros(meeting.size, dtype=np.int64)
        self._meeting, self._block = meeting, block
        self._route: _Route | None = None

    def mixed(self, rows: Tensor, mixing: Mixing) -> Tensor:
        """(rows, P): each node's row of W times the rows of all nodes; `rows` stay."""
        route = self._routed(mixing)
        found = torch.empty_like(rows)
        columns = min(COLUMNS, max(1, self._block // max(1, route.widest)))
        for start in range(0, rows.shape[1], columns):
            part = slice(start, start + columns)
            found[:, part] = route.product(self._seen(rows[:, part], route))
        self.edges += route.edges * rows.shape[1] * rows.element_size()
        return found

    def mean(self, rows: Tensor) -> Tensor:
        """(P,) float64: the mean over all nodes."""
        found = torch.empty(rows.shape[1], dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[1], COLUMNS):
            part = slice(start, start + COLUMNS)
            found[part] = self._meeting.total(rows[:, part].double().sum(0))
        return found / self.blocks.nodes

    def total(self, values: Tensor) -> Tensor:
        """(k,) float64: sums over all nodes of (rows, k) values; k is small."""
        return self._all(values).sum(0)

    def every(self, values: Tensor) -> Tensor:
        """(nodes,) float64: one number a node of all nodes, from (rows,) of those held here."""
        return self._all(values)

    def _all(self, values: Tensor) -> Tensor:
        """(nodes, ...) float64: small values of all nodes, in order, so that sums are `Here`'s."""
        block = self.blocks.of(self._meeting.rank)
        every = torch.zeros(self.blocks.nodes, *values.shape[1:], dtype=torch.float64)
        every[block.start : block.stop] = values
        return self._meeting.total(every).to(values.device)

    def _routed(self, mixing: Mixing) -> "_Route":
        if self._route is None or self._route.mixing is not mixing:
            self._route = _Route.of(mixing, self.blocks, self._meeting.rank)
        return self._route

    def _seen(self, part: Tensor, route: "_Route") -> Tensor:
        """(seen, columns) float64: this rank's rows, and those that arrive."""
        leaving = {to: part[torch.from_numpy(rows)] for to, rows in route.leaving.items()}
        arriving = {
            by: part.new_empty(len(places), part.shape[1]) for by, places in route.arriving.items()
        }
        self._meeting.swap(leaving, arriving)
        for to, block in leaving.items():
            self.sent[to] += block.nbytes
        seen = part.new_empty(route.weights.shape[1], part.shape[1], dtype=torch.float64)
        seen[route.own] = part.double()
        for by, block in arriving.items():
            seen[torch.from_numpy(route.arriving[by])] = block.double()
        return seen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Route:
    """What one rank sends, takes and makes of it under one W; see `Crossings`."""

    mixing: Mixing
    widest: int
    edges: NDArray[np.int64]
    leaving: dict[int, NDArray[np.int64]]
    arriving: dict[int, NDArray[np.int64]]
    own: slice
    weights: "csr_array"

    @classmethod
    def of(cls, mixing: Mixing, blocks: Blocks, rank: int) -> "_Route":
        crossings = Crossings.of(mixing, blocks)
        return cls(
            mixing=mixing,
            widest=crossings.widest,
            edges=crossings.edges[rank],
            leaving=crossings.leaving(rank),
            arriving=crossings.arriving(rank),
            own=crossings.own(rank),
            weights=crossings.weights(mixing, rank),
        )

    def product(self, seen: Tensor) -> Tensor:
        """(block, columns) float64: the weights times what is seen."""
        if seen.device.type == "cpu":
            return torch.from_numpy(self.weights @ seen.numpy())
        return torch.from_numpy(self.weights.toarray()).to(seen.device) @ seen
