"""The machines of a forecast: how fast each node computes, and when it is away."""

import math
from dataclasses import dataclass, field

import numpy as np

from weft.simulations.clock.presence import Absence, Churn
from weft.simulations.clock.quantities import (
    Draw,
    LogNormal,
    Quantity,
    check_quantity,
    fractions,
    per_node,
)
from weft.simulations.errors import BadOption
from weft.topology.edges import Float64

_SECONDS = (
    "publish_seconds",
    "judge_seconds",
    "merge_seconds",
    "evaluate_seconds",
    "announce_seconds",
    "settle_seconds",
    "fold_seconds",
    "finish_seconds",
)


_ROUNDS_KEPT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What nodes compute on.

    Seconds are those of a node whose slowness is one, for the model in question; a slower
    node takes longer for all of them.

    Attributes:
        slowness: a factor on everything that a node computes; 2 takes twice as long.
        spread: sigma of a lognormal factor of median one on each training of each node.
        stragglers: the share of nodes that are slower still, drawn once; 0 to 1.
        straggler_factor: by how much; at least 1.
        publish_seconds: a trained model into a contribution: encoding, hashing, syncing.
        judge_seconds: the arrived contributions looked at.
        merge_seconds: a round's merge, statistics re-estimated included.
        evaluate_seconds: a round's model measured, and tidied up after.
        announce_seconds: the last model cut into slices for the global merge.
        settle_seconds: from the last announcement until all know the committed set: two
            messages with the coordinator, and its reporting interval; of no node.
        fold_seconds: all shares of the global merge folded by one node; a node folds one.
        finish_seconds: the merged model put together, measured and written.
        absences: when nodes are away.
        churn: absences by chance, in place of `absences`.

    Raises:
        BadOption: a figure out of range; names it.
    """

    slowness: Quantity = 1.0
    spread: float = 0.0
    stragglers: float = 0.0
    straggler_factor: float = 4.0
    publish_seconds: float = 0.0
    judge_seconds: float = 0.0
    merge_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    announce_seconds: float = 0.0
    settle_seconds: float = 0.0
    fold_seconds: float = 0.0
    finish_seconds: float = 0.0
    absences: tuple[Absence, ...] = field(default=())
    churn: Churn | None = None

    def __post_init__(self) -> None:
        check_quantity("slowness", self.slowness, least=0, above=True, finite=True)
        for name in ("spread", *_SECONDS):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadOption(f"{name}: found {getattr(self, name)!r}, expected at least 0")
        if not 0 <= self.stragglers <= 1:
            raise BadOption(f"stragglers: found {self.stragglers}, expected a share of 0 to 1")
        if not 1 <= self.straggler_factor < math.inf:
            raise BadOption(f"straggler_factor: found {self.straggler_factor}, expected 1 or more")
        if self.absences and self.churn is not None:
            raise BadOption("found both absences and churn, expected one of them")

    @property
    def always_there(self) -> bool:
        """No node is ever away."""
        return not self.absences and self.churn is None

    def factors(self, nodes: int, seed: int) -> Float64:
        """How slow each node is: (nodes,) float64.

        Raises:
            BadOption: a list of another length.
        """
        found = per_node(self.slowness, nodes, Draw.SLOWNESS, seed)
        count = round(self.stragglers * nodes)
        if count:
            drawn = fractions(seed, Draw.STRAGGLERS, np.arange(nodes, dtype=np.int64))
            found[np.argsort(drawn, kind="stable")[:count]] *= self.straggler_factor
        return found

    def jitter(self, nodes: int, round: int, seed: int) -> Float64:
        """What each node's training of a round is multiplied by: (nodes,) float64."""
        if not self.spread:
            return np.ones(nodes)
        drawn = fractions(seed, Draw.JITTER, np.arange(nodes, dtype=np.int64), round)
        return LogNormal(median=1.0, sigma=self.spread).at(drawn)


class Pace:
    """How long each node takes for each of its steps.

    Args:
        machines: what nodes compute on.
        nodes: how many.
        steps_seconds: of a round's training on a node whose slowness is one.
        seed: of what is drawn.
    """

    def __init__(self, machines: Machines, nodes: int, steps_seconds: float, seed: int) -> None:
        self.factors = machines.factors(nodes, seed)
        self._machines, self._nodes, self._seed = machines, nodes, seed
        self._steps_seconds = steps_seconds
        self._kept: dict[int, Float64] = {}

    def trainings(self, round: int) -> Float64:
        """Seconds of every node's training of a round: (nodes,) float64."""
        jitter = self._machines.jitter(self._nodes, round, self._seed)
        return self._steps_seconds * self.factors * jitter

    def training(self, node: int, round: int) -> float:
        """Seconds of one node's training of a round."""
        if round not in self._kept:
            # Nodes differ by a few rounds; what the slowest still needs is worked out again.
            self._kept = dict(list(self._kept.items())[-_ROUNDS_KEPT:])
            self._kept[round] = self.trainings(round)
        return float(self._kept[round][node])

    def all(self, step: str) -> Float64:
        """Seconds of every node's step, by the name of its option: (nodes,) float64."""
        seconds: float = getattr(self._machines, f"{step}_seconds")
        return seconds * self.factors

    def of(self, step: str, node: int) -> float:
        """Seconds of one node's step."""
        seconds: float = getattr(self._machines, f"{step}_seconds")
        return seconds * float(self.factors[node])
