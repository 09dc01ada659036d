"""A crew whose models are points and whose losses are parabolas: studies of milliseconds."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet
from weft.simulations.learning.rule import Rule
from weft.simulations.study import Moment, Study
from weft.topology.schedules import Schedule


@dataclass(kw_only=True)
class Quadratics:
    """Node i minimises f_i(x) = 1/2 sum_j h_ij (x_j - b_ij)^2 by plain gradient steps.

    That is least squares with orthogonal inputs. The best model of all, f's minimum over
    the mean of the f_i, is the h-weighted mean of the b_i. "Accuracy" is 1 / (1 + f).

    Attributes:
        curvatures, optima: h and b, (nodes, P).
        lr, steps: of a round; lr 0 is gossip alone.
    """

    fleet: Fleet
    curvatures: Tensor
    optima: Tensor
    lr: float = 0.1
    steps: int = 1

    def train(self, round: int) -> Tensor:
        del round
        rows = self.fleet.parameters
        losses = 0.5 * (self.curvatures * (rows - self.optima).square()).sum(1).double()
        for _ in range(self.steps):
            rows -= self.lr * self.curvatures * (rows - self.optima)
        return losses

    def re_estimate(self) -> None:
        pass

    def evaluate(self) -> Tensor:
        return torch.tensor([self.score(row) for row in self.fleet.parameters]).double()

    def score(self, parameters: Tensor) -> float:
        return 1 / (1 + self.loss(parameters))

    def reset_optimizers(self) -> None:
        pass

    def close(self) -> None:
        pass

    def loss(self, model: Tensor) -> float:
        """F of a model: the mean of all f_i."""
        return float(0.5 * (self.curvatures * (model - self.optima).square()).sum(1).mean())

    @property
    def best(self) -> Tensor:
        """(P,): where F is least."""
        return (self.curvatures * self.optima).sum(0) / self.curvatures.sum(0)


def quadratics(
    nodes: int = 8,
    size: int = 5,
    *,
    lr: float = 0.1,
    steps: int = 1,
    dtype: torch.dtype = torch.float64,
    apart: bool = False,
    alike: bool = False,
) -> Quadratics:
    """Random parabolas with curvatures of 0.5 to 1.5.

    Args:
        nodes, size: how many, and of how many parameters.
        lr, steps: of a round.
        dtype: of the rows; float64 to see laws without float32's rounding.
        apart: nodes start from different models, not from zero all of them.
        alike: all have the same curvature.
    """
    chance = torch.Generator().manual_seed(nodes * 1000 + size)
    curvatures = 0.5 + torch.rand(1 if alike else nodes, size, generator=chance)
    optima = torch.randn(nodes, size, generator=chance) * 2
    starts = torch.randn(nodes, size, generator=chance) if apart else torch.zeros(nodes, size)
    fleet = Fleet(nodes=range(nodes), parameters=starts.to(dtype), statistics=torch.zeros(nodes, 0))
    return Quadratics(
        fleet=fleet,
        curvatures=curvatures.expand(nodes, size).to(dtype),
        optima=optima.to(dtype),
        lr=lr,
        steps=steps,
    )


def moments(
    rule: Rule, crew: Quadratics, schedule: Schedule, *, evaluated: bool = True
) -> Iterator[Moment]:
    """A study, round by round."""
    study = Study(crew=crew, exchange=Here(), rule=rule, schedule=schedule)
    return study.moments(lambda _: evaluated)


def run(rule: Rule, crew: Quadratics, schedule: Schedule) -> list[Moment]:
    """All rounds of a study."""
    return list(moments(rule, crew, schedule))


def models(rule: Rule, crew: Quadratics, schedule: Schedule) -> Tensor:
    """(nodes, P): what a study ends with."""
    for _ in moments(rule, crew, schedule, evaluated=False):
        pass
    return crew.fleet.parameters


def ring(nodes: int = 8, rounds: int = 50) -> Schedule:
    return built("ring", nodes, rounds=rounds)


def complete(nodes: int = 8, rounds: int = 50, *, k: int = 1) -> Schedule:
    return built("complete", nodes, when={"k": k}, rounds=rounds)


def matrix(schedule: Schedule, round: int) -> Tensor:
    """W of a round, (nodes, nodes) float64."""
    return torch.from_numpy(schedule.mixing(round).dense())


def error(rows: Tensor, model: Tensor) -> float:
    """The largest distance of any node's parameter from a model's."""
    return float((rows - model).abs().max())
