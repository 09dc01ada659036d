"""A study over ranks: each holds a block of nodes, trains it, and exchanges with the others.

>>> with joined() as meeting:  # doctest: +SKIP
...     study = over_ranks(
...         meeting, options.trainer, model=model, rule=Gossip(), schedule=schedule, seed=0
...     )
...     for moment in study.moments():
...         if meeting.leads:
...             write(moment)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from weft.node.calibration import Moments
from weft.node.trainer import Trainer
from weft.simulations.engines.crew import Crew, Looped, pooled
from weft.simulations.engines.fleet import Fleet
from weft.simulations.engines.meeting import Meeting
from weft.simulations.engines.ranks import Ranks
from weft.simulations.errors import BadOption
from weft.simulations.learning.rule import Rule
from weft.simulations.study import Study
from weft.topology.schedules import Schedule

__all__ = ["Gathered", "Pools", "over_ranks"]


@runtime_checkable
class Pools(Protocol):
    """A crew whose score can rest on running statistics that others helped to measure."""

    def moments(self, parameters: Tensor) -> dict[str, Moments]:
        """What each BatchNorm layer of a model (P,) sees over the data of this crew's nodes."""
        ...

    def score_with(self, parameters: Tensor, moments: Mapping[str, Moments]) -> float:
        """The accuracy of a model (P,) with running statistics from moments."""
        ...


class Gathered:
    """A rank's crew among the others: a failure of one ends all, and a score counts all data.

    Args:
        inner: trains this rank's nodes.
        meeting: the ranks.

    Raises:
        BadOption: the model has running statistics, and the inner crew cannot pool them.
    """

    def __init__(self, inner: Crew, meeting: Meeting) -> None:
        self.fleet = inner.fleet
        self._inner, self._meeting = inner, meeting
        if self.fleet.statistics.shape[1] and not isinstance(inner, Pools):
            raise BadOption(
                f"{type(inner).__name__} cannot measure running statistics over ranks; "
                "take a crew that can, or a model without BatchNorm"
            )

    def train(self, round: int) -> Tensor:
        """Train every node's model for one round, in place; (nodes,) float64 mean losses."""
        return self._meeting.together(lambda: self._inner.train(round))

    def re_estimate(self) -> None:
        """Measure running statistics again, each node on its own data; nothing where none are."""
        self._meeting.together(self._inner.re_estimate)

    def evaluate(self) -> Tensor:
        """(nodes,) float64: each model's accuracy, a fraction, on the shared test set."""
        return self._meeting.together(self._inner.evaluate)

    def score(self, parameters: Tensor) -> float:
        """The accuracy of one model (P,) that no node holds; no node's state is touched.

        Its running statistics are measured over the data of all ranks' nodes; rank 0 scores.
        """
        found = self._meeting.together(lambda: self._moments(parameters))
        everywhere = _over_all(found, self._meeting) if found else {}
        return self._meeting.first(
            self._meeting.together(lambda: self._scored(parameters, everywhere))
        )

    def reset_optimizers(self) -> None:
        """Let every node go on with a new optimizer."""
        self._meeting.together(self._inner.reset_optimizers)

    def close(self) -> None:
        """Give back what the inner crew holds."""
        self._inner.close()

    def _moments(self, parameters: Tensor) -> dict[str, Moments]:
        return self._inner.moments(parameters) if isinstance(self._inner, Pools) else {}

    def _scored(self, parameters: Tensor, moments: Mapping[str, Moments]) -> float:
        if not self._meeting.leads:
            return 0.0
        if isinstance(self._inner, Pools):
            return self._inner.score_with(parameters, moments)
        return self._inner.score(parameters)


def over_ranks(
    meeting: Meeting,
    trainer_of: Callable[[int], Trainer],
    *,
    model: nn.Module,
    rule: Rule,
    schedule: Schedule,
    seed: int,
    crew: Callable[[Fleet, Sequence[Trainer], int], Crew] = Looped,
    resets: bool = False,
) -> Study:
    """This rank's part of a study; to be called on all ranks alike.

    Args:
        meeting: the ranks.
        trainer_of: a node's trainer; called for this rank's nodes only.
        model: what all nodes start from.
        rule: what the nodes make of what they exchange.
        schedule: of all nodes.
        seed: of the study.
        crew: what trains this rank's block.
        resets: as of `Study`.

    Raises:
        BadOption: more ranks than nodes, or a crew that does not fit.
    """
    exchange = Ranks(meeting, schedule.nodes)
    nodes = exchange.blocks.of(meeting.rank)
    trainers = meeting.together(lambda: [trainer_of(node) for node in nodes])
    inner = crew(Fleet.alike(model.to(meeting.device), nodes), trainers, seed)
    return Study(
        crew=Gathered(inner, meeting),
        exchange=exchange,
        rule=rule,
        schedule=schedule,
        resets=resets,
    )


def _over_all(own: Mapping[str, Moments], meeting: Meeting) -> dict[str, Moments]:
    """A collective: the moments of all ranks together, pooled in the ranks' order."""
    flat = torch.cat([torch.stack([m.count, m.mean, m.var]).flatten() for m in own.values()])
    every = torch.zeros(meeting.size, len(flat), dtype=torch.float64)
    every[meeting.rank] = flat
    return pooled(_as_moments(row, own) for row in meeting.total(every))


def _as_moments(flat: Tensor, like: Mapping[str, Moments]) -> dict[str, Moments]:
    parts = torch.split(flat, [3 * len(moments.count) for moments in like.values()])
    return {name: Moments(*part.view(3, -1)) for name, part in zip(like, parts, strict=True)}
