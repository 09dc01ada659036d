"""A trainer for classification on a share of a task's data.

What `weft demo` and the studies train; a node's configuration names it as

    [train]
    trainer = "weft.simulations.tasks.classification:ClassificationTrainer"
    options = { data = "digits", nodes = 4, node = 0, split = "dirichlet" }

The same class trains the references (a node alone, all data in one place), so
that what differs is the merging and nothing else.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from weft.simulations.errors import BadOption
from weft.simulations.tasks.arrays import ArrayTask, limited, load_npz
from weft.simulations.tasks.digits import load_digits
from weft.simulations.tasks.models import build_model
from weft.simulations.tasks.optimizers import Slots, build_optimizer
from weft.simulations.tasks.splits import split as deal_out

DIGITS = "digits"
CALIBRATION_BATCH = 256
EVALUATION_BATCH = 1024
LEARNING_RATES = {"sgd": 0.2, "adam": 0.003}


def load_task(data: str, limit: int = 0) -> ArrayTask:
    """The digits, or the task in an .npz file; at most `limit` training examples (0: all)."""
    return limited(load_digits() if data == DIGITS else load_npz(data), limit)


class ClassificationTrainer:
    """Trains a small classifier on one node's share of the examples.

    Deterministic: the batches of a round follow from (seed, node, round) and
    from nothing else, so a round that is trained again after a crash ends with
    the same bytes (on the same build, with the same number of threads).

    Args:
        data: "digits", or the path of an .npz (see `arrays`).
        nodes: how many shares the examples are dealt out in.
        node: which share is this one's, from 0.
        split: how they are dealt out (see `splits`).
        alpha: concentration of the skewed splits.
        seed: of the split and of the batches.
        steps: optimizer steps a round.
        batch: examples a step.
        optimizer: "sgd" (with momentum) or "adam"; its state outlives the round.
        lr: learning rate; 0 takes the optimizer's usual one.
        decay: what the learning rate is multiplied by from one round to the next.
        momentum: of "sgd".
        model: "mlp" or "cnn".
        limit: use the first so many training examples; 0 for all.

    Raises:
        InvalidInput: data, split or an option that cannot be used.
    """

    def __init__(
        self,
        *,
        data: str = DIGITS,
        nodes: int = 1,
        node: int = 0,
        split: str = "dirichlet",
        alpha: float = 0.3,
        seed: int = 0,
        steps: int = 20,
        batch: int = 32,
        optimizer: str = "sgd",
        lr: float = 0.0,
        decay: float = 0.93,
        momentum: float = 0.5,
        model: str = "mlp",
        limit: int = 0,
    ) -> None:
        _check(nodes=nodes, node=node, steps=steps, batch=batch, optimizer=optimizer, lr=lr)
        task = load_task(data, limit)
        mine = deal_out(split, task.y_train, nodes=nodes, alpha=alpha, seed=seed)[node]
        self._inputs, self._labels = _tensors(task.x_train[mine], task.y_train[mine])
        self._test = _tensors(task.x_test, task.y_test)
        self._classes = task.classes
        self._model_name = model
        self._key = (seed, node)
        self._steps, self._batch = steps, batch
        self._optimizer_name = optimizer
        self._lr, self._decay, self._momentum = lr or LEARNING_RATES[optimizer], decay, momentum
        self._slots: Slots = {}

    @property
    def data_size(self) -> int:
        """How many examples this node trains on."""
        return len(self._labels)

    @property
    def class_counts(self) -> list[int]:
        """How many examples of each class this node has."""
        return torch.bincount(self._labels, minlength=self._classes).tolist()

    def model(self) -> nn.Module:
        """A new model, its parameters drawn from torch's generator."""
        shape = tuple(self._inputs.shape[1:])
        return build_model(self._model_name, shape=shape, classes=self._classes)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        """Train one round in place; the mean loss of its steps."""
        optimizer = build_optimizer(
            self._optimizer_name, model, self._slots, momentum=self._momentum
        )
        lr = self._lr * self._decay**round
        device = next(model.parameters()).device
        inputs, labels = self._inputs.to(device), self._labels.to(device)
        model.train()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for chosen in self._batches(round):
            loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(lr)
            total += loss.detach()
        self._slots = optimizer.slots
        return {"loss": total.item() / self._steps, "examples": float(self._steps * self._batch)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy (a fraction) and loss on the test set that all nodes share."""
        device = next(model.parameters()).device
        inputs, labels = self._test[0].to(device), self._test[1].to(device)
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in torch.split(inputs, EVALUATION_BATCH)])
            loss = nn.functional.cross_entropy(outputs, labels).item()
            accuracy = (outputs.argmax(dim=1) == labels).double().mean().item()
        return {"accuracy": accuracy, "test_loss": loss}

    def calibration(self) -> Iterator[tuple[Tensor]]:
        """This node's inputs, batch by batch, for running statistics."""
        for part in torch.split(self._inputs, CALIBRATION_BATCH):
            yield (part,)

    def state(self) -> dict[str, object]:
        """The optimizer's state; empty before the first round."""
        return {"optimizer": self._slots} if self._slots else {}

    def load_state(self, state: dict[str, object]) -> None:
        """Take the optimizer's state back; without one the next round starts afresh."""
        self._slots = cast(Slots, state.get("optimizer", {}))

    def _batches(self, round: int) -> Tensor:
        """(steps, batch) indices: shuffled passes over the share, one after the other."""
        generator = np.random.default_rng([*self._key, round])
        needed = self._steps * self._batch
        passes = -(-needed // self.data_size)
        order = np.concatenate([generator.permutation(self.data_size) for _ in range(passes)])
        return torch.from_numpy(order[:needed].reshape(self._steps, self._batch))


def _tensors(
    inputs: "np.typing.NDArray[np.float32]", labels: "np.typing.NDArray[np.int64]"
) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(labels)


def _check(*, nodes: int, node: int, steps: int, batch: int, optimizer: str, lr: float) -> None:
    if not 0 <= node < nodes:
        raise BadOption(f"node = {node} of nodes = {nodes}; shares are counted from 0")
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise BadOption(f"{name} = {value}; expected at least 1")
    if optimizer not in LEARNING_RATES:
        raise BadOption(f"no optimizer {optimizer!r}; known are {', '.join(LEARNING_RATES)}")
    if not (np.isfinite(lr) and lr >= 0):
        raise BadOption(f"lr = {lr}; expected a positive number, or 0 for the usual one")
