"""What a forecast is asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from weft.simulations.clock.links import LaidLinks
from weft.simulations.clock.machines import Machines, Pace
from weft.topology.edges import Float64, Int32, Int64
from weft.topology.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A run to be timed, all its chance drawn.

    Attributes:
        schedule: who hears whom.
        machines, pace: what nodes compute on, and how long their steps take.
        links: between all nodes.
        rounds: how many.
        message_bytes: of one contribution, on the wire.
        share_bytes: of each node's share of the global merge, on the wire, (nodes,) float64;
            None: there is none.
        deadline_s: how long a node waits for contributions, then for verdicts; None: for ever.
    """

    schedule: Schedule
    machines: Machines
    pace: Pace
    links: LaidLinks
    rounds: int
    message_bytes: float
    share_bytes: Float64 | None
    deadline_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """What a run would take; seconds are counted from the start of the first round.

    Attributes:
        round_ends: when each node ended each round, (rounds, nodes) float64 seconds; a round
            ends with its model measured.
        ends: when each node was done, its part of the global merge included, (nodes,) float64.
        busy: seconds that each node computed, (nodes,) float64; what an absence undid counts.
        away: seconds that each node was away, (nodes,) float64.
        senders, receivers, bytes: what moved over each link in the rounds, sorted by
            receiver, then sender; (links,) int32, int32 and float64.
        share_bytes: of each node's share of the global merge, (nodes,) float64: i sends
            share_bytes[i] + share_bytes[j] to every j, and again what was lost.
        final_bytes: of the global merge, over all links.
        missed: edges that were not used, by round, (rounds,) int64; each end counts its own.
    """

    round_ends: Float64
    ends: Float64
    busy: Float64
    away: Float64
    senders: Int32
    receivers: Int32
    bytes: Float64
    share_bytes: Float64
    final_bytes: float
    missed: Int64

    @property
    def seconds(self) -> float:
        """From the start to the last node's end."""
        return float(self.ends.max())

    @property
    def round_seconds(self) -> Float64:
        """When the last node ended each round: (rounds,) float64."""
        return np.asarray(self.round_ends.max(axis=1))

    @property
    def idle(self) -> Float64:
        """Seconds that each node waited, for others or for the network: (nodes,) float64."""
        return self.ends - self.busy - self.away

    @property
    def total_bytes(self) -> float:
        """Of all rounds and the global merge."""
        return float(self.bytes.sum()) + self.final_bytes

    def bytes_by_edge(self) -> dict[tuple[int, int], float]:
        """What moved over each link in the rounds, by sender and receiver."""
        ends = zip(self.senders.tolist(), self.receivers.tolist(), strict=True)
        return dict(zip(ends, self.bytes.tolist(), strict=True))


def edge_arrays(moved: Mapping[tuple[int, int], float]) -> tuple[Int32, Int32, Float64]:
    """Senders, receivers and bytes of links, sorted by receiver, then sender."""
    links = sorted(moved, key=lambda link: (link[1], link[0]))
    ends = np.array(links, dtype=np.int32).reshape(-1, 2)
    return ends[:, 0], ends[:, 1], np.array([moved[link] for link in links], dtype=np.float64)
