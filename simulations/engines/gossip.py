"""Gossip only: what a schedule does to numbers, for 100,000 nodes, without any training.

Each node holds a vector; a round multiplies by the schedule's W, as compressed rows. How
fast the nodes agree, whether their mean stays, and what moves are those of a run of
models under the same schedule.

Time and memory: one multiplication and two passes over the values a round. Values of
(nodes, size) are held three times in float64; the matrices that repeat are kept while
they have fewer than `KEPT` entries together, at 16 bytes an entry: 29 MB for the static
exponential graph of 100,000 nodes, and about five times that while it is made.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from weft.simulations.engines.failures import Failures
from weft.simulations.errors import BadOption
from weft.simulations.study import Moment
from weft.topology.draws import Source, Stream
from weft.topology.edges import Float64
from weft.topology.matrices import Mixing
from weft.topology.schedules import Schedule

if TYPE_CHECKING:
    from scipy.sparse import csr_array

KEPT = 20_000_000
"""Entries of matrices that are kept for the rounds in which they come again."""

NONE = Failures()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of one round without training.

    Attributes:
        moment: as of any study; no loss and no accuracies.
        drifted: how far the mean is from where it began, before the first round.
        lightest, heaviest: the extreme push-sum weights; one without push-sum.
    """

    moment: Moment
    drifted: float
    lightest: float
    heaviest: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GossipStudy:
    """Vectors that are mixed and nothing else; a study's interface, without its crew.

    With push-sum weights a node holds x and a weight w, and its model is x / w.

    Attributes:
        schedule: whose matrices are applied.
        values: (nodes, size) float64: what the nodes begin with; not written to.
        message_bytes: of one message: of the model that a vector stands for.
        failures: what does not arrive.

    Raises:
        BadOption: values of another shape.
    """

    schedule: Schedule
    values: Float64
    message_bytes: float = 0.0
    failures: Failures = NONE

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != self.schedule.nodes:
            raise BadOption(
                f"values: found an array of shape {self.values.shape}, expected a row for each "
                f"of {self.schedule.nodes} nodes"
            )

    def moments(self, evaluated: Callable[[int], bool] = lambda _: True) -> Iterator[Moment]:
        """Run all rounds of the schedule; one moment after each. Nothing is evaluated."""
        del evaluated
        return (seen.moment for seen in self.rounds())

    def rounds(self) -> Iterator[Seen]:
        """Run all rounds of the schedule; the same again each time it is called."""
        before = start = Holding.of(self.values, weighted=self.schedule.push_sum)
        for round, (messages, holding) in enumerate(self.holdings()):
            yield Seen(
                moment=self._moment(round, messages, before, holding),
                drifted=_between(start.mean, holding.mean),
                lightest=holding.lightest,
                heaviest=holding.heaviest,
            )
            before = holding

    def holdings(self) -> "Iterator[tuple[int, Holding]]":
        """For each round the messages that arrived, and what the nodes hold after it."""
        holding = Holding.of(self.values, weighted=self.schedule.push_sum)
        matrices = _Matrices(self.schedule)
        for round in range(self.schedule.rounds):
            messages = 0
            if self.schedule.mixes(round):
                mixing, matrix = self._arriving(matrices, round)
                if messages := mixing.messages:
                    holding = holding.mixed(matrix)
            yield messages, holding

    def _arriving(self, matrices: "_Matrices", round: int) -> "tuple[Mixing, csr_array]":
        """W of a round without what is lost, as entries and as compressed rows."""
        mixing, matrix = matrices.of(round)
        if not self.failures.any:
            return mixing, matrix
        mixing = arriving(mixing, self.failures, round, columns=self.schedule.push_sum)
        return mixing, mixing.sparse()

    def _moment(self, round: int, messages: int, before: "Holding", after: "Holding") -> Moment:
        return Moment(
            round=round,
            loss=math.nan,
            messages=messages,
            bytes=messages * self.message_bytes,
            trained=before.distance,
            mixed=after.distance,
            accuracies=None,
            drift=_between(before.mean, after.mean),
        )


def drawn_values(nodes: int, size: int, seed: int) -> Float64:
    """Independent values of mean 0 and variance 1, uniform: (nodes, size) float64."""
    drawn = Source(seed=seed, stream=Stream.STARTS).fractions(nodes * size)
    return np.asarray((2 * drawn - 1) * math.sqrt(3), dtype=np.float64).reshape(nodes, size)


def arriving(mixing: Mixing, failures: Failures, round: int, *, columns: bool) -> Mixing:
    """W of a round without what is lost, whose weight stays with a node.

    Args:
        mixing: W as it was meant.
        failures: what is lost.
        round: from 0.
        columns: with the sender, so that columns keep their sums (push-sum); else with
            the receiver, as in a daemon, so that rows do.
    """
    if not columns:
        return mixing.without(failures.lost(mixing, round))
    turned = mixing.transposed()
    back = Mixing(turned.nodes, turned.senders, turned.receivers, turned.weights)
    return turned.without(failures.lost(back, round)).transposed()


@dataclass(frozen=True, kw_only=True, eq=False)
class Holding:
    """What all nodes hold.

    Attributes:
        sums: (nodes, size) float64: the models; with push-sum, what they are a share of.
        weights: (nodes, 1) float64 push-sum weights; None without push-sum.
    """

    sums: Float64
    weights: Float64 | None

    @classmethod
    def of(cls, values: Float64, *, weighted: bool) -> "Holding":
        """At the start; push-sum weights are one."""
        return cls(sums=values, weights=np.ones((len(values), 1)) if weighted else None)

    def mixed(self, matrix: "csr_array") -> "Holding":
        """After a round: everything that is held is multiplied by W."""
        weights = None if self.weights is None else np.asarray(matrix @ self.weights)
        return Holding(sums=np.asarray(matrix @ self.sums), weights=weights)

    @property
    def models(self) -> Float64:
        """What each node reads: (nodes, size)."""
        return self.sums if self.weights is None else self.sums / self.weights

    @cached_property
    def mean(self) -> Float64:
        """What a global merge would give: (size,); with push-sum the sums' mean, which stays."""
        return np.asarray(self.sums.mean(axis=0))

    @cached_property
    def distance(self) -> float:
        """The consensus distance of the models: sqrt(mean_i |z_i - mean|^2)."""
        apart = self.models - self.mean
        return math.sqrt(float(np.vdot(apart, apart)) / len(apart))

    @property
    def lightest(self) -> float:
        """The smallest push-sum weight."""
        return 1.0 if self.weights is None else float(self.weights.min())

    @property
    def heaviest(self) -> float:
        """The largest push-sum weight."""
        return 1.0 if self.weights is None else float(self.weights.max())


class _Matrices:
    """W of any round as entries and as compressed rows, made once where rounds repeat."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._made: dict[int, tuple[Mixing, csr_array]] = {}
        self._room = KEPT

    def of(self, round: int) -> "tuple[Mixing, csr_array]":
        period = self._schedule.period
        place = round if period is None else round % period
        if place in self._made:
            return self._made[place]
        mixing = self._schedule.mixing(round)
        made = mixing, mixing.sparse()
        if period is not None and len(mixing.weights) <= self._room:
            self._room -= len(mixing.weights)
            self._made[place] = made
        return made


def _between(one: Float64, other: Float64) -> float:
    return float(np.linalg.norm(other - one))
