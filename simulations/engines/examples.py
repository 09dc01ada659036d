"""What a trainer says of its training, and the examples of many trainers in one place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from weft.node.trainer import Trainer
from weft.simulations.errors import BadOption


@runtime_checkable
class Stackable(Protocol):
    """A trainer that says what it does, so that it can be done for many nodes at once.

    `weft.simulations.tasks.classification.ClassificationTrainer` is one.

    Attributes:
        inputs, labels: examples, those of this node among them.
        test: inputs and labels of the test set.
        optimizer: "sgd" or "adam".
        momentum: of "sgd".
    """

    inputs: Tensor
    labels: Tensor
    test: tuple[Tensor, Tensor]
    optimizer: str
    momentum: float

    def model(self) -> nn.Module:
        """A new model."""
        ...

    def batches(self, round: int) -> Tensor:
        """(steps, batch) int64 indices into `inputs`, one batch a step."""
        ...

    def rate(self, round: int) -> float:
        """The learning rate of a round."""
        ...

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What a step minimises, a scalar; without a choice that hangs on values."""
        ...

    def calibration(self) -> Iterator[tuple[Tensor]]:
        """The node's inputs for running statistics, batch by batch."""
        ...


def stackable(trainers: Sequence[Trainer]) -> list[Stackable]:
    """The trainers, if a step of all can be taken at once.

    Raises:
        BadOption: one that does not say what it does, or does it otherwise than the first.
    """
    found: list[Stackable] = []
    for trainer in trainers:
        if not isinstance(trainer, Stackable):
            raise BadOption(
                f"{type(trainer).__name__} does not say what its steps are (batches, rate, loss, "
                "...); the stacked engine trains such as ClassificationTrainer; take 'local'"
            )
        found.append(trainer)
    kinds = sorted({f"{each.optimizer}, momentum {each.momentum}" for each in found})
    if len(kinds) > 1:
        raise BadOption(
            f"nodes with optimizers {' and '.join(kinds)}; the stacked engine takes one step "
            "for all, so give them one"
        )
    return found


def shared_rate(trainers: Sequence[Stackable], round: int) -> float:
    """The learning rate of a round.

    Raises:
        BadOption: nodes have different ones.
    """
    rates = sorted({trainer.rate(round) for trainer in trainers})
    if len(rates) > 1:
        raise BadOption(
            f"round {round}: nodes with learning rates {rates}; the stacked engine takes one "
            "step for all, so give them one"
        )
    return rates[0]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The examples of all trainers, on one device, each once.

    Attributes:
        inputs, labels: (n, ...).
        starts: where each trainer's `inputs` begin; equal for trainers that share them.
    """

    inputs: Tensor
    labels: Tensor
    starts: tuple[int, ...]

    @classmethod
    def of(cls, trainers: Sequence[Stackable], device: torch.device) -> "Pool":
        """Gather them; without a copy where all share one tensor that is there already."""
        starts: dict[int, int] = {}
        distinct: list[Stackable] = []
        size = 0
        for trainer in trainers:
            if id(trainer.inputs) not in starts:
                starts[id(trainer.inputs)] = size
                size += len(trainer.inputs)
                distinct.append(trainer)
        return cls(
            _joined([each.inputs for each in distinct], device),
            _joined([each.labels for each in distinct], device),
            tuple(starts[id(trainer.inputs)] for trainer in trainers),
        )

    def batches(self, trainers: Sequence[Stackable], round: int) -> Tensor:
        """(nodes, steps, batch) int64 indices of a round into the pool, on its device.

        Raises:
            BadOption: nodes take different steps.
        """
        found = [trainer.batches(round) for trainer in trainers]
        shapes = sorted({tuple(each.shape) for each in found})
        if len(shapes) > 1:
            raise BadOption(
                f"round {round}: nodes with (steps, batch) of {shapes}; the stacked engine takes "
                "one step for all, so give them the same"
            )
        starts = torch.tensor(self.starts).reshape(-1, 1, 1)
        return (torch.stack(found) + starts).to(self.inputs.device)


def _joined(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    return parts[0].to(device) if len(parts) == 1 else torch.cat(list(parts)).to(device)
