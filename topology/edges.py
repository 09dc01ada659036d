"""Edges as arrays: which node takes from which, in canonical order.

Sorted by receiver, then sender; no loops, no repetitions. An undirected edge is
two entries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


def summed(index: Int32, weights: Float64, nodes: int) -> Float64:
    """The weights of each node, added up in order: (nodes,)."""
    return np.asarray(np.bincount(index, weights, minlength=nodes), dtype=np.float64)


def sorted_distinct(keys: Int64) -> Int64:
    """Each number once, rising; several times faster than `np.unique`."""
    keys = np.sort(keys)
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Entry e: node `receivers[e]` takes from node `senders[e]`; both (entries,) int32."""

    nodes: int
    receivers: Int32
    senders: Int32
    directed: bool

    @classmethod
    def pulls(cls, nodes: int, receivers: NDArray[np.integer], senders: Int64) -> "Edges":
        """From entries in any order; loops and repetitions are dropped.

        Directed where some entry lacks its reverse.
        """
        receivers, senders = receivers.astype(np.int64), senders.astype(np.int64)
        apart = receivers != senders
        receivers, senders = receivers[apart], senders[apart]
        keys = sorted_distinct(receivers * nodes + senders)
        receivers, senders = keys // nodes, keys % nodes
        directed = not np.array_equal(keys, np.sort(senders * nodes + receivers))
        return cls(nodes, receivers.astype(np.int32), senders.astype(np.int32), directed)

    @classmethod
    def between(cls, nodes: int, left: NDArray[np.integer], right: NDArray[np.integer]) -> "Edges":
        """From undirected edges in any order; loops and repetitions are dropped."""
        return cls.pulls(nodes, np.concatenate([left, right]), np.concatenate([right, left]))

    @property
    def in_degrees(self) -> Int64:
        """From how many each node takes: (nodes,)."""
        return np.bincount(self.receivers, minlength=self.nodes)

    @property
    def out_degrees(self) -> Int64:
        """To how many each node gives: (nodes,)."""
        return np.bincount(self.senders, minlength=self.nodes)

    def taken(self, weights: Float64) -> Float64:
        """Of one weight an entry, each node's sum: (nodes,)."""
        return summed(self.receivers, weights, self.nodes)

    def pairs(self) -> tuple[Int64, Int64]:
        """The pairs joined in either direction, each once: (left, right), left < right."""
        low = np.minimum(self.receivers, self.senders).astype(np.int64)
        high = np.maximum(self.receivers, self.senders).astype(np.int64)
        keys = sorted_distinct(low * self.nodes + high)
        return keys // self.nodes, keys % self.nodes

    def joined(self, other: "Edges") -> "Edges":
        """The edges of both."""
        return Edges.pulls(
            self.nodes,
            np.concatenate([self.receivers, other.receivers]),
            np.concatenate([self.senders, other.senders]).astype(np.int64),
        )

    def parts(self) -> tuple[int, Int32]:
        """Strongly connected parts: their number, and each node's part."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        entries = np.ones(len(self.receivers), dtype=np.int8)
        matrix = coo_array(
            (entries, (self.receivers, self.senders)), shape=(self.nodes, self.nodes)
        )
        count, labels = connected_components(matrix.tocsr(), directed=True, connection="strong")
        return int(count), np.asarray(labels, dtype=np.int32)

    @property
    def is_connected(self) -> bool:
        """Every node hears of every other, over enough hops."""
        return self.parts()[0] <= 1
