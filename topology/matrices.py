"""Mixing matrices as index and weight arrays, and what a lost edge does to them.

Row i of W is what node i applies: its new parameters are sum_j W_ij x_j.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from weft.topology.edges import Edges, Float64, Int32, summed
from weft.topology.errors import NotStochastic

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Node = TypeVar("Node")

TOLERANCE = 1e-10
"""How far a row or a column may be from its sum before it counts as wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """W of one round, as its entries: sorted by receiver, then sender, each once.

    The diagonal is always there, even where it is zero. The arrays are not to be
    written to.

    Attributes:
        nodes: W is (nodes, nodes).
        receivers: (entries,) int32, the rows.
        senders: (entries,) int32, the columns.
        weights: (entries,) float64.
    """

    nodes: int
    receivers: Int32
    senders: Int32
    weights: Float64

    def __post_init__(self) -> None:
        for array in (self.receivers, self.senders, self.weights):
            array.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixing) and (
            self.nodes == other.nodes
            and np.array_equal(self.receivers, other.receivers)
            and np.array_equal(self.senders, other.senders)
            and np.array_equal(self.weights, other.weights)
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, edges: Edges, weights: Float64, own: Float64) -> "Mixing":
        """From the weights of edges and each node's weight for itself.

        Args:
            edges: who takes from whom.
            weights: (entries,) one for each entry of the edges.
            own: (nodes,) the diagonal.
        """
        self_index = np.arange(edges.nodes, dtype=np.int32)
        receivers = np.concatenate([edges.receivers, self_index])
        senders = np.concatenate([edges.senders, self_index])
        order = np.argsort(receivers.astype(np.int64) * edges.nodes + senders, kind="stable")
        values = np.concatenate([weights, own]).astype(np.float64)
        return cls(edges.nodes, receivers[order], senders[order], values[order])

    @classmethod
    def identity(cls, nodes: int) -> "Mixing":
        """Nobody talks."""
        index = np.arange(nodes, dtype=np.int32)
        return cls(nodes, index, index.copy(), np.ones(nodes))

    def dense(self) -> Float64:
        """W itself: (nodes, nodes) float64; for small graphs."""
        matrix = np.zeros((self.nodes, self.nodes))
        matrix[self.receivers, self.senders] = self.weights
        return matrix

    def sparse(self) -> "csr_array":
        """W for multiplication: compressed rows, float64."""
        from scipy.sparse import csr_array

        starts = np.searchsorted(self.receivers, np.arange(self.nodes + 1, dtype=np.int32))
        return csr_array(
            (self.weights, self.senders, starts.astype(np.int32)), shape=(self.nodes, self.nodes)
        )

    def row(self, node: int) -> list[tuple[int, float]]:
        """What a node applies: (sender, weight) by sender, itself always included."""
        start, stop = np.searchsorted(self.receivers, [node, node + 1])
        row = zip(self.senders[start:stop].tolist(), self.weights[start:stop].tolist(), strict=True)
        return [(sender, weight) for sender, weight in row if weight > 0 or sender == node]

    def neighbours(self, node: int) -> list[int]:
        """From whom a node takes, sorted; never itself."""
        return [sender for sender, _ in self.row(node) if sender != node]

    @property
    def between(self) -> NDArray[np.bool_]:
        """Which entries move a model from one node to another: (entries,) bool."""
        return np.asarray((self.receivers != self.senders) & (self.weights > 0))

    @property
    def messages(self) -> int:
        """How many models move."""
        return int(np.count_nonzero(self.between))

    @property
    def is_symmetric(self) -> bool:
        """W equals its transpose, to the bit."""
        return self == self.transposed()

    def transposed(self) -> "Mixing":
        """The transpose of W."""
        order = np.argsort(self.senders.astype(np.int64) * self.nodes + self.receivers)
        return Mixing(self.nodes, self.senders[order], self.receivers[order], self.weights[order])

    def without(self, lost: NDArray[np.bool_]) -> "Mixing":
        """W where some entries did not arrive: their weight goes to the receiver itself.

        Where both directions of an edge are lost, a symmetric W stays symmetric,
        and the mean over the nodes stays what it was.

        Args:
            lost: (entries,) bool; the diagonal is never lost, whatever it says.
        """
        lost = lost & (self.receivers != self.senders)
        back = summed(self.receivers[lost], self.weights[lost], self.nodes)
        kept = ~lost
        weights = self.weights[kept].copy()
        diagonal = self.receivers[kept] == self.senders[kept]
        weights[diagonal] += back
        return Mixing(self.nodes, self.receivers[kept], self.senders[kept], weights)


def missing_to_self(
    row: Mapping[Node, float], me: Node, missed: Collection[Node]
) -> dict[Node, float]:
    """A node's row where some neighbours did not arrive: their weight goes to itself.

    Args:
        row: weight by node, this node's own included.
        me: this node.
        missed: who did not arrive; those not in the row, and `me`, count for nothing.

    Returns:
        The row without the missed ones, of the same sum up to rounding.
    """
    gone = [node for node in row if node in missed and node != me]
    kept = {node: weight for node, weight in row.items() if node not in gone}
    kept[me] = row[me] + sum(row[node] for node in gone)
    return kept


def check_stochastic(mixing: Mixing, where: str, *, kept: Float64 | None, columns: bool) -> None:
    """Refuse a W that is no average, or that moves what it must keep.

    Args:
        mixing: W of one round.
        where: names the schedule and the round, for the message.
        kept: (nodes,) the weights of the average that W must keep, kept @ W = kept
            (equal ones: the columns sum to one); None: the drift is declared.
        columns: the columns sum to one and the rows need not (push-sum).

    Raises:
        NotStochastic: says which row or column, and what it found.
    """
    if not np.isfinite(mixing.weights).all() or (mixing.weights < 0).any():
        raise NotStochastic(f"{where}: found a weight below 0 or not finite, expected none")
    if columns:
        _expect_ones(where, "column", summed(mixing.senders, mixing.weights, mixing.nodes))
        return
    _expect_ones(where, "row", summed(mixing.receivers, mixing.weights, mixing.nodes))
    if kept is not None:
        taken = summed(mixing.senders, mixing.weights * kept[mixing.receivers], mixing.nodes)
        _expect_ones(where, "column", taken / kept)


def _expect_ones(where: str, what: str, sums: Float64) -> None:
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) <= TOLERANCE:
        return
    hint = "" if what == "row" else ": the average drifts; take metropolis or push_sum weights"
    declare = "" if what == "row" else ", or declare it with the graph's option drift = true"
    raise NotStochastic(
        f"{where}: found {what} {worst} with sum {sums[worst]:.6g}, expected 1{hint}{declare}"
    )
