"""What goes wrong between nodes: messages lost, nodes away, networks that fall apart.

A pure function of the seed and the round: any round's failures are known without those
before it, and whether an edge is lost does not hang on which others there are. Who misses
a neighbour keeps its weight for itself, as a daemon does under a deadline.

>>> lossy = Failures(loss=0.1, partitions=(Partition(start=5, stop=8),))
>>> lossy.any
True
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.simulations.errors import BadOption
from weft.topology.draws import Source, Stream
from weft.topology.matrices import Mixing


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """For some rounds the nodes are in parts that do not reach each other.

    Attributes:
        start, stop: the rounds `start` to `stop - 1`.
        parts: so many blocks of consecutive nodes, of equal size up to one node.

    Raises:
        BadOption: no such rounds, or no two parts.
    """

    start: int
    stop: int
    parts: int = 2

    def __post_init__(self) -> None:
        _require(0 <= self.start < self.stop, "partition", self, "0 <= start < stop")
        _require(self.parts >= 2, "partition", self, "two parts or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What goes wrong in a run, and how often.

    Attributes:
        loss: with which probability an edge is lost in a round, 0 to 1.
        one_sided: each direction of an edge is lost on its own, and the other end does not
            hear of it: the mean drifts. Otherwise both directions are lost together.
        churn: the share of nodes that are away, on average, 0 to 1; they keep what they have.
        absence: for how many rounds a node is away at a time.
        partitions: see there.
        seed: of all draws.

    Raises:
        BadOption: a share outside 0 to 1, or an absence below one round.
    """

    loss: float = 0.0
    one_sided: bool = False
    churn: float = 0.0
    absence: int = 1
    partitions: tuple[Partition, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _require(0 <= self.loss <= 1, "loss", self.loss, "0 to 1")
        _require(0 <= self.churn <= 1, "churn", self.churn, "0 to 1")
        _require(self.absence >= 1, "absence", self.absence, "at least 1 round")

    @property
    def any(self) -> bool:
        """Whether anything can go wrong at all."""
        return bool(self.loss or self.churn or self.partitions)

    def lost(self, mixing: Mixing, round: int) -> NDArray[np.bool_]:
        """Which entries of W do not arrive in a round: (entries,) bool; never the diagonal."""
        receivers, senders = mixing.receivers, mixing.senders
        gone = np.zeros(len(receivers), dtype=np.bool_)
        if self.loss:
            gone |= self._edges_lost(mixing, round)
        if self.churn:
            away = self.away(mixing.nodes, round)
            gone |= away[receivers] | away[senders]
        for partition in self.partitions:
            if partition.start <= round < partition.stop:
                part = np.arange(mixing.nodes) * partition.parts // mixing.nodes
                gone |= part[receivers] != part[senders]
        return np.asarray(gone & (receivers != senders))

    def away(self, nodes: int, round: int) -> NDArray[np.bool_]:
        """Which nodes are away in a round: (nodes,) bool."""
        stretch = Source(seed=self.seed, round=round // self.absence, stream=Stream.ABSENCES)
        return np.asarray(stretch.fractions_of(np.arange(nodes)) < self.churn)

    def _edges_lost(self, mixing: Mixing, round: int) -> NDArray[np.bool_]:
        receivers, senders = mixing.receivers.astype(np.int64), mixing.senders.astype(np.int64)
        if not self.one_sided:
            receivers, senders = np.maximum(receivers, senders), np.minimum(receivers, senders)
        source = Source(seed=self.seed, round=round, stream=Stream.LOSSES)
        return np.asarray(source.fractions_of(receivers * mixing.nodes + senders) < self.loss)


def _require(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise BadOption(f"{name}: found {found}, expected {expected}")
