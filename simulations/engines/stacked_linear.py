"""A crew that trains the linear layers of some nodes at once, on a CPU."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

from weft.node.trainer import Trainer
from weft.simulations.engines.crew import Looped, check_finite
from weft.simulations.engines.fleet import Fleet, parameters_of
from weft.simulations.engines.linear_chain import Update, linear_chain, step
from weft.simulations.errors import BadModel
from weft.simulations.tasks.classification import ClassificationTrainer, check_losses

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, as in `weft.simulations.tasks.optimizers`."""


def stackable(model: nn.Module, trainer: Trainer) -> bool:
    """Whether `StackedLinear` can train such a model as this trainer would."""
    # A subclass may train in any way; this class's way is known.
    return type(trainer) is ClassificationTrainer and linear_chain(model) is not None


class StackedLinear(Looped):
    """As `Looped` to rounding, for nets of linear layers; faster by half.

    Nodes are stacked by their numbers, so the results do not depend on how nodes are dealt
    out to processes as long as no stack is cut in two. The optimizers' state is held here.

    Args:
        fleet: the rows.
        trainers: one a node, alike but for their shares of one `DealtTask`.
        seed: of the study.
        stack: nodes i * stack up to (i + 1) * stack are one stack.

    Raises:
        BadModel: a model or a trainer that this crew cannot train.
    """

    def __init__(self, fleet: Fleet, trainers: Sequence[Trainer], seed: int, *, stack: int) -> None:
        super().__init__(fleet, trainers, seed)
        layers = linear_chain(self._model)
        if layers is None or not _alike(trainers):
            raise BadModel(
                "found another model than linear layers and ReLUs, or trainers that are not "
                "ClassificationTrainers alike on one DealtTask; take the crew Looped"
            )
        self._layers, self._known = layers, trainers
        self._parameters = parameters_of(self._model).views(fleet.parameters)
        self._stacks = stacks(fleet.nodes, stack)
        self.reset_optimizers()

    def train(self, round: int) -> Tensor:
        """Train every node's model for one round, in place; (nodes,) float64 mean losses.

        Raises:
            Diverged: a loss or a model that is not finite; names node, round and step.
        """
        losses = []
        for places, update in zip(self._stacks, self._updates, strict=True):
            found = self._train(places, update, round)
            self._check(places, found, round)
            losses.append(found.mean(0))
        return torch.cat(losses)

    def reset_optimizers(self) -> None:
        """Let every node go on with a new optimizer."""
        first = self._known[0]
        optimizer = {"sgd": StackedSgd, "adam": StackedAdam}[first.optimizer]
        self._updates = [optimizer(self._part(places), first.momentum) for places in self._stacks]

    def _train(self, places: range, update: "StackedUpdate", round: int) -> Tensor:
        """(steps, k) float64 losses of a stack."""
        trainers = [self._known[place] for place in places]
        inputs, labels = trainers[0].inputs.flatten(1), trainers[0].labels
        parameters = self._part(places)
        batches = torch.stack([trainer.batches(round) for trainer in trainers], dim=1)
        losses = torch.zeros(batches.shape[:2], dtype=torch.float64)
        with torch.no_grad():
            for number, chosen in enumerate(batches):
                seen = inputs.index_select(0, chosen.view(-1)).view(*chosen.shape, -1)
                update.begin(trainers[0].rate(round))
                losses[number] = step(self._layers, parameters, seen, labels[chosen], update)
        return losses

    def _part(self, places: range) -> dict[str, Tensor]:
        cut = slice(places.start, places.stop)
        return {name: view[cut] for name, view in self._parameters.items()}

    def _check(self, places: range, losses: Tensor, round: int) -> None:
        for column, place in enumerate(places):
            node = self.fleet.nodes[place]
            check_losses(losses[:, column], node, round)
            check_finite(self.fleet.parameters[place], node, round)


class StackedUpdate(Update):
    """An optimizer of a stack's parameters.

    Args:
        parameters: by name, (k, ...) each; changed in place.
        momentum: of SGD.
    """

    def __init__(self, parameters: Mapping[str, Tensor], momentum: float) -> None:
        self._parameters, self._momentum = parameters, momentum
        self._steps, self._lr = 0, 0.0

    def begin(self, lr: float) -> None:
        """A step begins."""
        self._steps, self._lr = self._steps + 1, lr


class StackedSgd(StackedUpdate):
    """SGD with momentum; the first step sets the momentum."""

    def __init__(self, parameters: Mapping[str, Tensor], momentum: float) -> None:
        super().__init__(parameters, momentum)
        self._kept = _zeros_like(parameters)

    def weight(self, name: str, errors: Tensor, inputs: Tensor) -> None:
        """The product that makes the gradient adds it to the momentum."""
        kept = self._kept[name]
        kept.baddbmm_(errors.transpose(1, 2), inputs, beta=self._decay)
        self._parameters[name].add_(kept, alpha=-self._lr)

    def bias(self, name: str, errors: Tensor) -> None:
        """As `weight`."""
        kept = self._kept[name].mul_(self._decay).add_(errors.sum(1))
        self._parameters[name].add_(kept, alpha=-self._lr)

    @property
    def _decay(self) -> float:
        return self._momentum if self._steps > 1 else 0.0


class StackedAdam(StackedUpdate):
    """Adam with torch's usual constants."""

    def __init__(self, parameters: Mapping[str, Tensor], momentum: float) -> None:
        super().__init__(parameters, momentum)
        self._means, self._squares = _zeros_like(parameters), _zeros_like(parameters)

    def weight(self, name: str, errors: Tensor, inputs: Tensor) -> None:
        """Step by the gradient's running mean over the root of that of its square."""
        self._step(name, torch.bmm(errors.transpose(1, 2), inputs))

    def bias(self, name: str, errors: Tensor) -> None:
        """As `weight`."""
        self._step(name, errors.sum(1))

    def _step(self, name: str, gradient: Tensor) -> None:
        mean = self._means[name].lerp_(gradient, 1 - BETAS[0])
        square = self._squares[name].mul_(BETAS[1])
        square.addcmul_(gradient, gradient, value=1 - BETAS[1])
        size = self._lr / (1 - BETAS[0] ** self._steps)
        root = math.sqrt(1 - BETAS[1] ** self._steps)
        # The gradient is used up: its memory holds the denominator.
        denominator = torch.sqrt(square, out=gradient).div_(root).add_(EPSILON)
        self._parameters[name].addcdiv_(mean, denominator, value=-size)


def stacks(nodes: range, stack: int) -> list[range]:
    """Places in a block of nodes, cut where the nodes' numbers are multiples of `stack`.

    >>> stacks(range(6, 18), 8)
    [range(0, 2), range(2, 10), range(10, 12)]
    """
    inside = range(nodes.start + -nodes.start % stack, nodes.stop, stack)
    borders = sorted({nodes.start, *inside, nodes.stop})
    return [range(start - nodes.start, stop - nodes.start) for start, stop in pairwise(borders)]


def _alike(trainers: Sequence[Trainer]) -> TypeGuard[Sequence[ClassificationTrainer]]:
    found = {_way_of(trainer) for trainer in trainers}
    return len(found) == 1 and None not in found


def _way_of(trainer: Trainer) -> tuple[object, ...] | None:
    """What must be equal among the trainers of a stack; None for one of another class."""
    if type(trainer) is not ClassificationTrainer:
        return None
    steps = tuple(trainer.batches(0).shape)
    rates = trainer.rate(0), trainer.rate(1)
    return trainer.optimizer, trainer.momentum, steps, rates, id(trainer.inputs)


def _zeros_like(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Dense, whatever the strides of the views: batched products want them so.
    return {name: torch.zeros(view.shape) for name, view in parameters.items()}
