"""One study: rounds of training and exchange over virtual nodes, watched from above.

The order is the daemon's: train, exchange, measure running statistics again, evaluate.
The matrices are those of the daemon's own schedules.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from weft.simulations.engines.crew import Crew
from weft.simulations.engines.exchange import Exchange
from weft.simulations.learning.rule import Rule
from weft.topology.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """Fractions, on the test set that all nodes share.

    Attributes:
        mean, worst, best: over the nodes, each with its own model.
        merged: of the mean of all models, which nobody holds: what a global merge now
            would score. Running statistics are measured over all nodes' data.
    """

    mean: float
    worst: float
    best: float
    merged: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was seen of one round.

    Attributes:
        round: from 0.
        loss: mean training loss over nodes and steps.
        messages: models, or what a rule sends in their place, that moved in this round.
        bytes: of those.
        trained, mixed: the consensus distance before and after the exchange, about the mean
            that a global merge would give, in the units of the parameters;
            `weft.simulations.references.consensus_distance`.
        accuracies: None in rounds that are not evaluated.
        drift: how far the exchange moved the mean that a global merge would give, in the
            units of the parameters: zero, up to rounding, where W and the rule keep it.
        moved: which share of the units of the models that moved changed place on arrival;
            zero where the rule does not align. Where it does, distances and the mean are
            those of the models in one order of units.
    """

    round: int
    loss: float
    messages: int
    bytes: float
    trained: float
    mixed: float
    accuracies: Accuracies | None
    drift: float = 0.0
    moved: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Who takes part: engine, rule and schedule, fitting one another.

    Attributes:
        resets: optimizers start afresh after every round in which the schedule mixes.
    """

    crew: Crew
    exchange: Exchange
    rule: Rule
    schedule: Schedule
    resets: bool = False

    def moments(self, evaluated: Callable[[int], bool] = lambda _: True) -> Iterator[Moment]:
        """Run all rounds of the schedule; one moment after each.

        Args:
            evaluated: whether accuracies are measured after a round; it changes
                nothing that nodes hold, nor any random number.

        Raises:
            Diverged: a node's model is not finite any more.
        """
        rows = self.crew.fleet.parameters
        self.rule.join(self.crew)
        self.rule.begin(rows)
        for round in range(self.schedule.rounds):
            mixing = self.schedule.mixing(round)
            loss = self._mean(self.crew.train(round))
            before, trained = after, mixed = self._seen()
            self.rule.communicate(rows, mixing, self.exchange)
            if mixing.messages:
                self.crew.re_estimate()
                after, mixed = self._seen()
                if self.resets:
                    self.crew.reset_optimizers()
            traffic = self.rule.traffic(mixing, rows.shape[1])
            yield Moment(
                round=round,
                loss=loss,
                messages=traffic.messages,
                bytes=traffic.bytes,
                trained=trained,
                mixed=mixed,
                accuracies=self._accuracies(after) if evaluated(round) else None,
                drift=(after - before).norm().item(),
                moved=self.rule.moved if mixing.messages else 0.0,
            )

    def _accuracies(self, merged: Tensor) -> Accuracies:
        every = self.exchange.every(self.crew.evaluate())
        return Accuracies(
            mean=every.mean().item(),
            worst=every.min().item(),
            best=every.max().item(),
            merged=self.crew.score(merged.to(self.crew.fleet.parameters.dtype)),
        )

    def _seen(self) -> tuple[Tensor, float]:
        """(P,) float64, the mean that a global merge would give, and the distance about it."""
        rows = self.rule.comparable(self.crew.fleet.parameters)
        mean = self.rule.mean(rows, self.exchange)
        squares = sum_of_squares(rows, mean)
        return mean, math.sqrt(self.exchange.total(squares).item() / self.schedule.nodes)

    def _mean(self, losses: Tensor) -> float:
        return self.exchange.total(losses.unsqueeze(1)).item() / self.schedule.nodes


def sum_of_squares(rows: Tensor, mean: Tensor) -> Tensor:
    """(rows, 1) float64: each row's squared distance from the mean; a row at a time."""
    found = rows.new_zeros((len(rows), 1)).double()
    for place, row in enumerate(rows):
        found[place] = (row.double() - mean).square().sum()
    return found
