"""Schedules in time: in which rounds to talk, and in which manner.

A timing is a frozen dataclass whose fields are the schedule's options; it says for
each round one of four things, and knows nothing of edges. Rounds count from 0; a
round ends with its merge, so a schedule of every k rounds merges in round k - 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from weft.topology.adaptive import Announcement, Band
from weft.topology.errors import UnknownName, unknown
from weft.topology.options import Scalar, require, with_options
from weft.topology.talk import Everybody, OnGraph, Pairs, Silent, Talk


class Timing(ABC):
    """When to talk.

    Attributes:
        finite: it means the rounds of one run, and nothing beyond.
        cycle: after how many rounds it is where it was, chance aside.
    """

    finite: ClassVar[bool] = False

    @property
    def cycle(self) -> int:
        """One round, unless a timing says otherwise."""
        return 1

    @abstractmethod
    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """What a round does.

        Args:
            round: from 0.
            rounds: how many the run has.
            announced: changes of the period, by round; only `Adaptive` looks.
        """

    def period(self, of_graph: int | None, announced: Sequence[Announcement]) -> int | None:
        """After how many rounds everything repeats, given the graph's period in steps."""
        del of_graph, announced
        return None

    @property
    def pairs(self) -> Pairs | None:
        """The sparse gossip that it does in some rounds, if any."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Every(Timing):
    """After every k rounds of training.

    Attributes:
        k: how many.
    """

    k: int = 1

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", self.k, "at least 1")

    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """Rounds k - 1, 2k - 1, ...; the graph moves on one step each time."""
        del rounds, announced
        return Silent() if (round + 1) % self.k else OnGraph(round // self.k)

    @property
    def cycle(self) -> int:
        """The period."""
        return self.k

    def period(self, of_graph: int | None, announced: Sequence[Announcement]) -> int | None:
        """The graph's, k times."""
        del announced
        return None if of_graph is None else self.k * of_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse(Timing):
    """A few random exchanges each round.

    Attributes:
        pairs_per_node: expected exchanges of a node in a round.
        one_way: pulls instead of exchanges; the average drifts, unless weights are
            push-sum.
    """

    pairs_per_node: float = 0.2
    one_way: bool = False

    def __post_init__(self) -> None:
        _require_pairs(self.pairs_per_node)

    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """The same in all rounds."""
        del round, rounds, announced
        return self.pairs or Silent()

    @property
    def pairs(self) -> Pairs | None:
        """Unless none are expected."""
        return Pairs(self.pairs_per_node, self.one_way) if self.pairs_per_node else None

    def period(self, of_graph: int | None, announced: Sequence[Announcement]) -> int | None:
        """Silence repeats; chance does not."""
        del of_graph, announced
        return None if self.pairs else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Timing):
    """All with all in one window of rounds, sparse gossip outside.

    Attributes:
        start: its first round; -1: so that it ends with the run.
        length: its rounds; 0: a twentieth of the run's, at least one.
        inside: "complete", or "graph" for the run's own graph.
        pairs_per_node: expected exchanges of a node in a round outside.
        one_way: pulls instead of exchanges outside.

    Source: arXiv:2507.06542, window schedules of a tenth and a twentieth of the
        rounds; later windows end better there.
    """

    finite: ClassVar[bool] = True
    start: int = -1
    length: int = 0
    inside: str = "complete"
    pairs_per_node: float = 0.2
    one_way: bool = False

    def __post_init__(self) -> None:
        require(self.start >= -1, "start", self.start, "a round, or -1 for the last ones")
        require(self.length >= 0, "length", self.length, "at least 0")
        require(self.inside in {"complete", "graph"}, "inside", self.inside, "complete | graph")
        _require_pairs(self.pairs_per_node)

    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """Inside or outside."""
        del announced
        length = self.length or max(1, rounds // 20)
        start = max(0, rounds - length) if self.start < 0 else self.start
        if not start <= round < start + length:
            return self.pairs or Silent()
        return Everybody() if self.inside == "complete" else OnGraph(round - start)

    @property
    def pairs(self) -> Pairs | None:
        """Outside the window, unless none are expected."""
        return Pairs(self.pairs_per_node, self.one_way) if self.pairs_per_node else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Late(Timing):
    """A budget of mixing rounds, the denser the later.

    The m-th of M falls where (round / rounds)^(1 + power) passes m / M; the last
    one is the last round. Power 0 spreads them evenly.

    Attributes:
        budget: M; 0: a tenth of the run's rounds, at least one.
        power: how much later than evenly.

    Source: arXiv:2507.06542 finds that mixing late is worth more; the form of the
        density is ours.
    """

    finite: ClassVar[bool] = True
    budget: int = 0
    power: int = 2

    def __post_init__(self) -> None:
        require(self.budget >= 0, "budget", self.budget, "at least 0")
        require(0 <= self.power <= 20, "power", self.power, "0 to 20")

    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """The m-th mixing round takes the graph's m-th step."""
        del announced
        budget = min(rounds, self.budget or max(1, rounds // 10))
        steps = late_rounds(rounds, budget, self.power)
        return OnGraph(steps[round]) if round in steps else Silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(Timing):
    """Every so many rounds, and how many is announced as the run goes.

    Attributes:
        k: the period until something else is announced.
        target: of the consensus distance; with the others for `decide`.
        hysteresis: see `weft.topology.adaptive.Band`.
        lead: see there.
        shortest: see there.
        longest: see there.
    """

    finite: ClassVar[bool] = True
    k: int = 1
    target: float = 1.0
    hysteresis: float = 1.0
    lead: int = 4
    shortest: int = 1
    longest: int = 32

    def __post_init__(self) -> None:
        _ = self.band
        require(self.shortest <= self.k <= self.longest, "k", self.k, "shortest to longest")

    @property
    def band(self) -> Band:
        """What `decide` needs."""
        return Band(
            target=self.target,
            hysteresis=self.hysteresis,
            lead=self.lead,
            shortest=self.shortest,
            longest=self.longest,
        )

    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """As the last announcement that holds says; its period counts from its first round."""
        del rounds
        steps = 0
        holds = Announcement(0, self.k)
        for following in announced:
            if following.from_round > round:
                break
            steps += (following.from_round - holds.from_round) // holds.period
            holds = following
        since = round - holds.from_round
        if (since + 1) % holds.period:
            return Silent()
        return OnGraph(steps + since // holds.period)

    def period(self, of_graph: int | None, announced: Sequence[Announcement]) -> int | None:
        """As `Every` while nothing is announced."""
        return None if announced else Every(k=self.k).period(of_graph, announced)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalOnly(Timing):
    """Never: the run's single global merge is all."""

    def at(self, round: int, rounds: int, announced: Sequence[Announcement]) -> Talk:
        """Nothing."""
        del round, rounds, announced
        return Silent()

    def period(self, of_graph: int | None, announced: Sequence[Announcement]) -> int | None:
        """Silence repeats."""
        del of_graph, announced
        return 1


TIMINGS: dict[str, type[Timing]] = {
    "every": Every,
    "window": Window,
    "late": Late,
    "sparse": Sparse,
    "adaptive": Adaptive,
    "final_only": FinalOnly,
}


def timing(name: str, options: Sequence[tuple[str, Scalar]] = ()) -> Timing:
    """A schedule's timing with its options.

    Raises:
        UnknownName: no such schedule; names the nearest.
        BadOption: no such option, or a value that cannot be.
    """
    if name not in TIMINGS:
        raise UnknownName(unknown("schedule", name, TIMINGS))
    return with_options(f"schedule {name}", TIMINGS[name], options)


@lru_cache(maxsize=64)
def late_rounds(rounds: int, budget: int, power: int) -> dict[int, int]:
    """The mixing rounds of `Late`, each with its number; whole numbers only.

    Whole numbers, because a rounded power could differ between machines. Where
    several fall into one round, the earlier ones move to the rounds before.
    """
    whole = rounds ** (power + 1)
    passed = [budget * (round + 1) ** (power + 1) // whole for round in range(rounds)]
    number = np.arange(budget)
    first = np.searchsorted(np.array(passed), number + 1)
    apart = np.minimum.accumulate((first - number)[::-1])[::-1] + number
    return {int(round): int(step) for step, round in enumerate(apart)}


def _require_pairs(found: float) -> None:
    require(0 <= found < float("inf"), "pairs_per_node", found, "at least 0")
