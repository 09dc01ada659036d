"""When to mix, decided from the consensus distance: a pure function, announced ahead.

Nodes never decide: they would differ. Whoever sees all measurements (the
coordinator) asks `decide`, and announces what it returns some rounds before it
holds. Until something is announced the last period goes on, so nobody waits for a
decision that cannot come.

Source: Kong et al. 2021, "Consensus control for decentralized deep learning": keep
    the consensus distance below a critical value. The rule is ours: double or halve
    the period outside a band around the target, and wait until a change has held
    for a whole period.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from weft.topology.errors import BadOption
from weft.topology.options import require


@dataclass(frozen=True, slots=True)
class Announcement:
    """From a round on, mix after every `period` rounds."""

    from_round: int
    period: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What the consensus distance should be, and how far the period may go.

    Attributes:
        target: the consensus distance aimed at, in the units of the measurement.
        hysteresis: nothing changes between target / (1 + h) and target * (1 + h).
            Below 0.42 a change of the period by two could cross the whole band.
        lead: rounds between a decision and the round from which it holds.
        shortest: the least period.
        longest: the greatest period.
    """

    target: float
    hysteresis: float = 1.0
    lead: int = 4
    shortest: int = 1
    longest: int = 32

    def __post_init__(self) -> None:
        require(self.target > 0 and math.isfinite(self.target), "target", self.target, "above 0")
        require(self.hysteresis >= 0.42, "hysteresis", self.hysteresis, "at least 0.42")
        require(self.lead >= 1, "lead", self.lead, "at least 1")
        require(self.shortest >= 1, "shortest", self.shortest, "at least 1")
        require(self.longest >= self.shortest, "longest", self.longest, "shortest or more")


def decide(
    band: Band, announced: Sequence[Announcement], round: int, distance: float
) -> Announcement | None:
    """What to announce after a measurement, if anything.

    Args:
        band: target and limits.
        announced: all announcements so far, the first period included, by round.
        round: the latest round that any node has reached.
        distance: the consensus distance measured there, sqrt(mean_i |x_i - mean|^2).

    Returns:
        The next announcement, `lead` rounds ahead; None where the distance is in the
        band, the period at its limit, or the last change not yet seen in effect.

    Raises:
        BadOption: the distance is no distance.
    """
    if not distance >= 0 or math.isinf(distance):
        raise BadOption(
            f"consensus distance: found {distance} in round {round}, expected 0 or more"
        )
    last = announced[-1]
    if round < last.from_round + last.period:
        return None
    period = last.period
    if distance > band.target * (1 + band.hysteresis):
        period = max(band.shortest, period // 2)
    elif distance < band.target / (1 + band.hysteresis):
        period = min(band.longest, period * 2)
    if period == last.period:
        return None
    return Announcement(round + band.lead, period)


def check_announced(announced: Sequence[Announcement]) -> None:
    """Refuse announcements that contradict each other."""
    for earlier, later in pairwise(announced):
        if later.from_round <= earlier.from_round:
            raise BadOption(
                f"announcements: found round {later.from_round} after {earlier.from_round}, "
                "expected rising rounds"
            )
    for each in announced:
        require(each.period >= 1, "period", each.period, "at least 1")
