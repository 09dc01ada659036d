"""Who is there and who reaches whom, at any moment: absences and partitions.

Everything is known beforehand, so all of it is a pure function of time: a step that an
absence cuts short, a message that a partition holds up, need no events of their own.
Intervals are half open: away from `from_s` on, back at `to_s`.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.simulations.clock.quantities import Draw, fractions
from weft.simulations.errors import BadOption

_PATIENCE = 1000
"""How often a step may be cut short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A node is away: its process is down, and what it was doing is lost.

    Attributes:
        node: its number.
        from_s, to_s: seconds since the start; `to_s` may be infinite.
    """

    node: int
    from_s: float
    to_s: float

    def __post_init__(self) -> None:
        _check_interval(f"absence of node {self.node}", self.from_s, self.to_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Sets of nodes do not reach each other for a time; within a set all is well.

    Attributes:
        groups: the sets, disjoint; nodes that none of them names are one more set.
        from_s, to_s: seconds since the start.
    """

    groups: tuple[tuple[int, ...], ...]
    from_s: float
    to_s: float

    def __post_init__(self) -> None:
        _check_interval("partition", self.from_s, self.to_s)
        named = [node for group in self.groups for node in group]
        if not named or len(named) != len(set(named)):
            raise BadOption(
                f"partition: found the groups {self.groups}, expected at least one node, "
                "and each in one group only"
            )

    def labels(self, nodes: int) -> NDArray[np.int32]:
        """The set of each node: (nodes,) int32.

        Raises:
            BadOption: a node that there is not.
        """
        found = np.zeros(nodes, dtype=np.int32)
        for number, group in enumerate(self.groups, start=1):
            for node in group:
                check_node("partition", node, nodes)
                found[node] = number
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """Nodes come and go by chance: times there and times away are exponential.

    Attributes:
        mean_there_s, mean_away_s: seconds, above zero.
    """

    mean_there_s: float
    mean_away_s: float

    def __post_init__(self) -> None:
        if not (0 < self.mean_there_s < math.inf and 0 < self.mean_away_s < math.inf):
            raise BadOption(
                f"churn: found {self.mean_there_s} s there and {self.mean_away_s} s away in the "
                "mean, expected both above 0 and finite"
            )

    def intervals(self, node: int, seed: int) -> Iterator[tuple[float, float]]:
        """A node's absences, for ever, from its own draws."""
        time, number, key = 0.0, 0, np.array([node], dtype=np.int64)
        while True:
            there, away = (
                -mean * math.log1p(-float(fractions(seed, Draw.CHURN, key, 2 * number + half)[0]))
                for half, mean in enumerate((self.mean_there_s, self.mean_away_s))
            )
            yield time + there, time + there + away
            time, number = time + there + away, number + 1


class Presence:
    """Answers who is there, for all nodes.

    Args:
        nodes: how many.
        absences: any number a node; those that overlap count as one.
        partitions: any number.
        churn: absences by chance, in place of `absences`; None: none.
        seed: of the churn.

    Raises:
        BadOption: a node that there is not.
    """

    def __init__(
        self,
        nodes: int,
        absences: Iterable[Absence] = (),
        partitions: Sequence[Partition] = (),
        churn: Churn | None = None,
        seed: int = 0,
    ) -> None:
        self._absences: dict[int, _Absences] = {}
        given: dict[int, list[tuple[float, float]]] = {}
        for one in absences:
            check_node("absence", one.node, nodes)
            given.setdefault(one.node, []).append((one.from_s, one.to_s))
        for node, intervals in given.items():
            self._absences[node] = _Absences(iter(_merged(intervals)))
        if churn is not None:
            for node in range(nodes):
                self._absences[node] = _Absences(churn.intervals(node, seed))
        self._partitions = [(one, one.labels(nodes)) for one in partitions]
        self._nodes = nodes

    @property
    def is_perfect(self) -> bool:
        """Everybody is always there and reached."""
        return not self._absences and not self._partitions

    def back(self, node: int, time: float) -> float:
        """`time` if the node is there then, else when it is back."""
        absences = self._absences.get(node)
        return time if absences is None else absences.back(time)

    def finish(self, node: int, start: float, seconds: float) -> tuple[float, float, int]:
        """When a step is done that begins anew whenever its node was away.

        Returns:
            The moment; the seconds of work that were lost; how often it was cut short.

        Raises:
            BadOption: it is cut short again and again.
        """
        absences = self._absences.get(node)
        if absences is None:
            return start + seconds, 0.0, 0
        time, lost, cuts = absences.back(start), 0.0, 0
        while math.isfinite(time) and (gone := absences.after(time))[0] < time + seconds:
            lost, cuts, time = lost + gone[0] - time, cuts + 1, gone[1]
            if cuts > _PATIENCE:
                raise BadOption(
                    f"node {node} is never there for the {seconds:g} s that a step of it takes"
                )
        return time + seconds, lost, cuts

    def away_s(self, node: int, until: float) -> float:
        """Seconds that a node was away before a moment."""
        absences = self._absences.get(node)
        return 0.0 if absences is None else absences.total(until)

    def reached(self, one: int, other: int, time: float) -> float:
        """The first moment from `time` on at which two nodes reach each other."""
        if self.is_perfect:
            return time
        while True:
            later = max(self.back(one, time), self.back(other, time))
            for partition, labels in self._partitions:
                if labels[one] != labels[other] and partition.from_s <= later < partition.to_s:
                    later = partition.to_s
            if later == time or math.isinf(later):
                return later
            time = later

    def apart(
        self, senders: NDArray[np.int32], receivers: NDArray[np.int32], time: float
    ) -> NDArray[np.bool_]:
        """Which pairs do not reach each other at a moment: (pairs,) bool."""
        away = np.zeros(self._nodes, dtype=np.bool_)
        for node, absences in self._absences.items():
            away[node] = absences.back(time) > time
        found = away[senders] | away[receivers]
        for partition, labels in self._partitions:
            if partition.from_s <= time < partition.to_s:
                found |= labels[senders] != labels[receivers]
        return np.asarray(found)

    def next_change(self, time: float) -> float:
        """The first moment after `time` at which somebody leaves, comes or is cut off."""
        moments = [math.inf]
        for absences in self._absences.values():
            start, end = absences.after(time)
            back = absences.back(time)
            moments.append(back if back > time else start if start > time else end)
        for partition, _ in self._partitions:
            moments += [one for one in (partition.from_s, partition.to_s) if one > time]
        return min(moments)


class _Absences:
    """One node's, read from an iterator as far as somebody asks."""

    def __init__(self, intervals: Iterator[tuple[float, float]]) -> None:
        self._rest = intervals
        self._starts: list[float] = []
        self._ends: list[float] = []

    def back(self, time: float) -> float:
        self._read(time)
        place = bisect_right(self._starts, time) - 1
        return self._ends[place] if place >= 0 and time < self._ends[place] else time

    def after(self, time: float) -> tuple[float, float]:
        """The next absence that starts after a moment; infinite where there is none."""
        self._read(time)
        place = bisect_right(self._starts, time)
        if place == len(self._starts):
            return math.inf, math.inf
        return self._starts[place], self._ends[place]

    def total(self, until: float) -> float:
        self._read(until)
        pairs = zip(self._starts, self._ends, strict=True)
        return sum(min(end, until) - start for start, end in pairs if start < until)

    def _read(self, time: float) -> None:
        """Have all that start by `time`, and one more where there is one."""
        while not self._starts or self._starts[-1] <= time:
            following = next(self._rest, None)
            if following is None:
                return
            self._starts.append(following[0])
            self._ends.append(following[1])


def check_node(what: str, node: int, nodes: int) -> None:
    """Refuse the number of a node that there is not."""
    if not isinstance(node, int) or not 0 <= node < nodes:
        raise BadOption(f"{what}: found node {node!r}, expected 0 to {nodes - 1}")


def _merged(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _check_interval(what: str, start: float, end: float) -> None:
    if not 0 <= start < end:
        raise BadOption(f"{what}: found {start} s to {end} s, expected 0 <= from_s < to_s")
