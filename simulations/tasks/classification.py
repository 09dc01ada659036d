"""A trainer for classification on a share of a task's data.

What `weft demo` and the studies train; a node's configuration names it as

    [train]
    trainer = "weft.simulations.tasks.classification:ClassificationTrainer"
    options = { data = "digits", nodes = 4, node = 0, split = "dirichlet" }

The same class trains the references (a node alone, all data in one place), so
that what differs is the merging and nothing else.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from weft.simulations.errors import BadOption, Diverged
from weft.simulations.tasks.arrays import ArrayTask, limited, load_npz
from weft.simulations.tasks.dealt import DealtTask
from weft.simulations.tasks.digits import load_digits
from weft.simulations.tasks.models import build_model, parse_options
from weft.simulations.tasks.optimizers import Slots, build_optimizer

DIGITS = "digits"
CALIBRATION_BATCH = 256
EVALUATION_BATCH = 1024
LEARNING_RATES = {"sgd": 0.2, "adam": 0.003}


def load_task(data: str, limit: int = 0, test_limit: int = 0) -> ArrayTask:
    """The digits, or the task in an .npz file; at most so many examples (0: all of them)."""
    return limited(load_digits() if data == DIGITS else load_npz(data), limit, test_limit)


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
        model: of `weft.simulations.tasks.models.MODELS`.
        model_options: of the model, as a mapping or as "width=8, depth=2".
        limit, test_limit: use the first so many training and test examples; 0 for all.
        task: the task as it was dealt out already, for many trainers in one process:
            `data`, `split`, `alpha` and the limits are not looked at. Without it this
            trainer keeps its own share and nothing of the others'.

    Attributes:
        inputs, labels: examples, those of all nodes where a task was given. Not to be
            written to.
        share: (data_size,) int64, which of them are this node's.
        test: inputs and labels that all nodes share.
        optimizer, momentum: as given.

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
        model_options: Mapping[str, int] | str = "",
        limit: int = 0,
        test_limit: int = 0,
        task: DealtTask | None = None,
    ) -> None:
        _check(nodes=nodes, node=node, steps=steps, batch=batch, optimizer=optimizer, lr=lr)
        if task is None:
            whole = load_task(data, limit, test_limit)
            dealt = DealtTask.of(whole, split, nodes=nodes, alpha=alpha, seed=seed).only(node)
        else:
            dealt = task
        self.inputs, self.labels = dealt.inputs, dealt.labels
        self.share = dealt.shares[0 if task is None else node]
        self.test = dealt.test_inputs, dealt.test_labels
        self.optimizer, self.momentum = optimizer, momentum
        self._classes = dealt.classes
        self._model_name, self._model_options = model, parse_options(model_options)
        self._key = (seed, node)
        self._steps, self._batch = steps, batch
        self._lr, self._decay = lr or LEARNING_RATES[optimizer], decay
        self._slots: Slots = {}

    @property
    def data_size(self) -> int:
        """How many examples this node trains on."""
        return len(self.share)

    @property
    def class_counts(self) -> list[int]:
        """How many examples of each class this node has."""
        return torch.bincount(self.labels[self.share].flatten(), minlength=self._classes).tolist()

    def model(self) -> nn.Module:
        """A new model, its parameters drawn from torch's generator."""
        shape = tuple(self.inputs.shape[1:])
        return build_model(
            self._model_name, shape=shape, classes=self._classes, **self._model_options
        )

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        """Train one round in place; the mean loss of its steps.

        Raises:
            Diverged: a loss that is not finite; names node, round and step.
        """
        optimizer = build_optimizer(self.optimizer, model, self._slots, momentum=self.momentum)
        rate = self.rate(round)
        device = next(model.parameters()).device
        inputs, labels, batches = self._on(device, round)
        model.train()
        losses = torch.zeros(self._steps, dtype=torch.float64, device=device)
        for step, chosen in enumerate(batches):
            loss = self.loss(model(inputs[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(rate)
            losses[step] = loss.detach()
        self._slots = optimizer.slots
        check_losses(losses, self._key[1], round)
        return {"loss": losses.mean().item(), "examples": float(self._steps * self._batch)}

    def rate(self, round: int) -> float:
        """The learning rate of a round."""
        return self._lr * self._decay**round

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What a step minimises: the mean cross entropy of (batch, ..., classes) outputs."""
        return nn.functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())

    def batches(self, round: int) -> Tensor:
        """(steps, batch) int64 indices into `inputs`: the batches of a round, one a step."""
        return self.share[self._places(round)]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy (a fraction) and loss on the test set that all nodes share."""
        device = next(model.parameters()).device
        inputs, labels = self.test[0].to(device), self.test[1].to(device)
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in torch.split(inputs, EVALUATION_BATCH)])
            loss = self.loss(outputs, labels).item()
            accuracy = (outputs.argmax(dim=-1) == labels).double().mean().item()
        return {"accuracy": accuracy, "test_loss": loss}

    def calibration(self) -> Iterator[tuple[Tensor]]:
        """This node's inputs, batch by batch, for running statistics."""
        for part in torch.split(self.share, CALIBRATION_BATCH):
            yield (self.inputs[part],)

    def state(self) -> dict[str, object]:
        """The optimizer's state; empty before the first round."""
        return {"optimizer": self._slots} if self._slots else {}

    def load_state(self, state: dict[str, object]) -> None:
        """Take the optimizer's state back; without one the next round starts afresh."""
        self._slots = cast(Slots, state.get("optimizer", {}))

    def _on(self, device: torch.device, round: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and the round's batches as indices into them, on the device."""
        if device.type == "cpu":
            return self.inputs, self.labels, self.batches(round)
        # Only this node's share goes there, and it goes at once.
        inputs, labels = self.inputs[self.share], self.labels[self.share]
        return inputs.to(device), labels.to(device), self._places(round)

    def _places(self, round: int) -> Tensor:
        """(steps, batch) places in the share: shuffled passes over it, one after the other."""
        generator = np.random.default_rng([*self._key, round])
        needed = self._steps * self._batch
        passes = -(-needed // self.data_size)
        order = np.concatenate([generator.permutation(self.data_size) for _ in range(passes)])
        return torch.from_numpy(order[:needed].reshape(self._steps, self._batch))


def check_losses(losses: Tensor, node: int, round: int) -> None:
    """Refuse the losses (steps,) of a round of which one is not finite.

    Raises:
        Diverged: names node, round and step.
    """
    finite = torch.isfinite(losses)
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise Diverged(
            f"node {node}, round {round}, step {step}: "
            f"found a loss of {losses[step].item()}; take a lower lr"
        )


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
