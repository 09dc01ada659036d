"""The engine for one machine without an accelerator: one worker a core.

>>> from weft.simulations.references import TaskOptions
>>> crew = local_crew(TaskOptions(nodes=64), workers=2)
>>> crew.manner
'2 workers, linear layers of 8 nodes at once'
>>> crew.close()
"""

from dataclasses import dataclass

import torch

from weft.simulations.engines.fleet import Fleet
from weft.simulations.engines.shared_tensors import SharedTensor
from weft.simulations.engines.stacked_linear import stackable
from weft.simulations.engines.workers import Workers
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.tasks.classification import ClassificationTrainer
from weft.simulations.tasks.dealt import DealtTask

STACK = 8
"""Nodes at once: more do not fit a core's cache, fewer leave more to Python."""

SPREAD = 4
"""Stacks that even a small study is cut into, so that as many cores find work."""


def local_crew(options: TaskOptions, *, workers: int = 0) -> Workers:
    """All nodes of a task, trained by worker processes on one copy of its data.

    Nets of linear layers and ReLUs are stacked, eight nodes at once, which is to rounding
    what training them one by one gives; all others are trained one by one.

    Args:
        options: of the task.
        workers: processes; 0: one a core. Has no influence on results.

    Raises:
        InvalidInput: data, split or an option that cannot be used.
    """
    task = options.dealt()
    trainer = options.trainer(0, task)
    model = initial_model(trainer, options.seed)
    return Workers(
        Fleet.alike(model, range(options.nodes)),
        SharedTrainers.of(options, task),
        options.seed,
        workers=workers,
        stack=stack_of(options.nodes) if stackable(model, trainer) else 1,
    )


def stack_of(nodes: int) -> int:
    """How many nodes are stacked in a study of so many; below 8 there are none."""
    return max(1, min(STACK, nodes // SPREAD))


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrainers:
    """Makes trainers in a worker, on a task in memory that all workers share.

    Attributes:
        options: of the task.
        inputs, labels, test_inputs, test_labels, classes: see `DealtTask`.
        order: (examples,) int64 indices, share after share.
        sizes: of the shares.
    """

    options: TaskOptions
    inputs: SharedTensor
    labels: SharedTensor
    test_inputs: SharedTensor
    test_labels: SharedTensor
    classes: int
    order: SharedTensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, options: TaskOptions, task: DealtTask) -> "SharedTrainers":
        """Copy a task to shared memory."""
        return cls(
            options=options,
            inputs=SharedTensor.holding(task.inputs),
            labels=SharedTensor.holding(task.labels),
            test_inputs=SharedTensor.holding(task.test_inputs),
            test_labels=SharedTensor.holding(task.test_labels),
            classes=task.classes,
            order=SharedTensor.holding(torch.cat(task.shares)),
            sizes=tuple(len(share) for share in task.shares),
        )

    def __call__(self, nodes: range) -> list[ClassificationTrainer]:
        """The trainers of some nodes."""
        task = DealtTask(
            inputs=self.inputs.tensor,
            labels=self.labels.tensor,
            test_inputs=self.test_inputs.tensor,
            test_labels=self.test_labels.tensor,
            classes=self.classes,
            shares=torch.split(self.order.tensor, list(self.sizes)),
        )
        return [self.options.trainer(node, task) for node in nodes]
