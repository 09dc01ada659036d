"""A crew trains and measures the models of a block of nodes."""

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from weft.node.calibration import Moments, pooled_moments, set_running_statistics
from weft.node.errors import BadTrainer, NotFinite
from weft.node.trainer import Calibrates, Evaluates, Stateful, Trainer
from weft.simulations.engines.aligner import Aligner, Alignment, Merge
from weft.simulations.engines.batch_norms import check_norms
from weft.simulations.engines.fleet import Fleet, bind, parameters_of
from weft.simulations.errors import BadModel, BadOption, Diverged


class Crew(Protocol):
    """What a study asks of an engine that trains; rows are those of `fleet`."""

    fleet: Fleet

    def train(self, round: int) -> Tensor:
        """Train every node's model for one round, in place; (nodes,) float64 mean losses."""
        ...

    def re_estimate(self) -> None:
        """Measure running statistics again, each node on its own data; nothing where none are."""
        ...

    def evaluate(self) -> Tensor:
        """(nodes,) float64: each model's accuracy, a fraction, on the shared test set."""
        ...

    def score(self, parameters: Tensor) -> float:
        """The accuracy of one model (P,) that no node holds; no node's state is touched.

        Its running statistics are measured over the data of all nodes of this crew.
        """
        ...

    def reset_optimizers(self) -> None:
        """Let every node go on with a new optimizer."""
        ...

    def close(self) -> None:
        """Give back what the crew holds."""
        ...


class Looped:
    """One module that lives in one node's row after the other, in this process.

    Args:
        fleet: the rows.
        trainers: one a node, in the rows' order; what they keep (an optimizer's
            state) stays with them.
        seed: of the study; generators are seeded from it, the node and the round.

    Raises:
        BadOption: a trainer that cannot evaluate.
        BadModel: a model of another size than the rows', or a BatchNorm that counts its
            batches.
    """

    def __init__(self, fleet: Fleet, trainers: Sequence[Trainer], seed: int) -> None:
        self.fleet = fleet
        self._trainers, self._seed = trainers, seed
        self._model = trainers[0].model()
        _check_size(self._model, fleet)
        check_norms(self._model)
        self._judges = [judge(trainer) for trainer in trainers]
        self._aligners: dict[Alignment, Aligner] = {}

    def train(self, round: int) -> Tensor:
        """Train every node's model for one round, in place; (nodes,) float64 mean losses.

        Raises:
            Diverged: a model that is not finite; names node and round.
        """
        losses = torch.zeros(len(self._trainers), dtype=torch.float64)
        for place, (node, trainer) in enumerate(zip(self.fleet.nodes, self._trainers, strict=True)):
            self._enter(place)
            seed_generators(self._seed, node, round)
            with noted(node, round):
                told = trainer.train(self._model.train(), round)
                losses[place] = _number(trainer, "train", told, "loss", missing=math.nan)
            check_finite(self.fleet.parameters[place], node, round)
        return losses

    def re_estimate(self) -> None:
        """Measure running statistics again, each node on its own data; nothing where none are.

        A node whose trainer has no `calibration` keeps what it has, as a daemon's does.

        Raises:
            Diverged: a layer saw what is not finite; names node and layer.
        """
        if not self.fleet.statistics.shape[1]:
            return
        for place, (node, trainer) in enumerate(zip(self.fleet.nodes, self._trainers, strict=True)):
            if isinstance(trainer, Calibrates):
                self._enter(place)
                set_running_statistics(self._model, self._moments(trainer, f"node {node}"))

    def evaluate(self) -> Tensor:
        """(nodes,) float64: each model's accuracy, a fraction, on the shared test set."""
        return torch.tensor(
            [self._accuracy(place) for place in range(len(self._trainers))], dtype=torch.float64
        )

    def score(self, parameters: Tensor) -> float:
        """The accuracy of one model (P,) that no node holds; no node's state is touched.

        Its running statistics are measured over the data of all nodes of this crew.
        """
        return self.score_with(parameters, self.moments(parameters))

    def moments(self, parameters: Tensor) -> dict[str, Moments]:
        """What each BatchNorm layer of a model (P,) sees over the data of this crew's nodes."""
        return pooled(self.moments_by_node(parameters))

    def moments_by_node(self, parameters: Tensor) -> list[dict[str, Moments]]:
        """The same, of each node whose trainer calibrates; empty for a model without statistics.

        Raises:
            Diverged: a layer saw what is not finite; names it.
        """
        if not self.fleet.statistics.shape[1]:
            return []
        bind(self._model, parameters.clone(), self.fleet.statistics[0].clone())
        return [
            self._moments(trainer, "the mean of all models")
            for trainer in self._trainers
            if isinstance(trainer, Calibrates)
        ]

    def score_with(self, parameters: Tensor, moments: Mapping[str, Moments]) -> float:
        """The accuracy of a model (P,) with running statistics from moments."""
        bind(self._model, parameters.clone(), self.fleet.statistics[0].clone())
        set_running_statistics(self._model, moments)
        return self._accuracy_by(self._judges[0])

    def merged(self, merges: Sequence[Merge], how: Alignment) -> tuple[Tensor, Tensor]:
        """Merges of aligned models, see `weft.simulations.engines.aligner.Aligns`."""
        aligner = self.aligner_among(self.fleet, lambda _: self._trainers, how)
        found, moved = zip(*(aligner.merged(merge) for merge in merges), strict=True)
        return torch.stack(found), torch.tensor(moved, dtype=torch.float64)

    def aligner_among(
        self, fleet: Fleet, trainers_of: Callable[[range], Sequence[Trainer]], how: Alignment
    ) -> Aligner:
        """What merges models for this crew's nodes; made once.

        Args:
            fleet: all rows that take part, this crew's among them.
            trainers_of: makes the trainers of nodes that are not this crew's, for the examples
                that all nodes look at, where there are such.
            how: units are matched.
        """
        if how not in self._aligners:
            nodes = fleet.nodes if how.proxy else self.fleet.nodes
            made = trainers_of(nodes) if how.proxy else self._trainers
            trainers = dict(zip(nodes, made, strict=True))
            self._aligners[how] = Aligner(self._model, fleet, trainers, how)
        return self._aligners[how]

    def reset_optimizers(self) -> None:
        """Let every node go on with a new optimizer, as a daemon does after a merge."""
        for trainer in self._trainers:
            if isinstance(trainer, Stateful):
                state = trainer.state()
                trainer.load_state({key: state[key] for key in state if key != "optimizer"})

    def close(self) -> None:
        """Nothing is held."""

    def _enter(self, place: int) -> None:
        bind(self._model, self.fleet.parameters[place], self.fleet.statistics[place])

    def _moments(self, trainer: Calibrates, whose: str) -> dict[str, Moments]:
        """What the layers of the model, which is `whose`, see over a trainer's data."""
        try:
            return pooled_moments(self._model, trainer.calibration())
        except NotFinite as error:
            raise Diverged(f"{whose}: {error}; take a lower lr") from error

    def _accuracy(self, place: int) -> float:
        self._enter(place)
        return self._accuracy_by(self._judges[place])

    def _accuracy_by(self, judge: Evaluates) -> float:
        with torch.no_grad():
            return _number(judge, "evaluate", judge.evaluate(self._model.eval()), "accuracy")


def judge(trainer: Trainer) -> Evaluates:
    """The trainer as one that evaluates.

    Raises:
        BadOption: it cannot.
    """
    if not isinstance(trainer, Evaluates):
        raise BadOption(
            f"{type(trainer).__name__} has no evaluate(model); a study measures accuracy"
        )
    return trainer


def _number(
    trainer: object, method: str, told: Any, name: str, *, missing: float | None = None
) -> float:
    """What a method of the user's says under a name; where it says nothing, what is missing.

    Raises:
        BadTrainer: no mapping, or no number.
    """
    try:
        return float(told.get(name, missing))
    except (AttributeError, TypeError, ValueError):
        raise BadTrainer(
            f"{type(trainer).__name__}.{method} gave {reprlib.repr(told)}; "
            f'expected a mapping with a number, such as {{"{name}": 0.5}}'
        ) from None


def _check_size(model: nn.Module, fleet: Fleet) -> None:
    found, expected = parameters_of(model).size, fleet.parameters.shape[1]
    if found != expected:
        raise BadModel(
            f"node {fleet.nodes[0]}: found a model of {found} parameters, expected {expected} as "
            "the first node's: all nodes have models of one shape"
        )


def seed_generators(seed: int, node: int, round: int) -> None:
    """Seed torch from a study's seed, a node and a round: equal wherever the node trains."""
    drawn = np.random.SeedSequence([seed, node, round]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(drawn) >> 1)


def pooled(parts: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
    """The moments of all parts together, added up in their order; empty without any."""
    found: dict[str, Moments] = {}
    for part in parts:
        for layer, moments in part.items():
            found[layer] = found[layer].pooled_with(moments) if layer in found else moments
    return found


@contextmanager
def noted(node: int, round: int) -> Iterator[None]:
    """Let an error say whose training it ended: a note at its end, the error as it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while node {node} trained in round {round}")
        raise


def check_finite(parameters: Tensor, node: int, round: int) -> None:
    """Refuse a model (P,) that is not finite after training."""
    # A finite sum has finite addends, and is eight times as quick to find.
    if not (torch.isfinite(parameters.sum()) or torch.isfinite(parameters).all()):
        raise Diverged(
            f"node {node}, round {round}: training left a value that is not finite; take a lower lr"
        )
