"""A task dealt out to nodes, held once for all trainers of a process.

A share is indices into the task's examples, so a thousand nodes hold a thousand small
arrays of indices, and neither examples nor the test set again.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weft.simulations.tasks.arrays import ArrayTask
from weft.simulations.tasks.splits import split as deal_out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DealtTask:
    """Examples, and who holds which of them. Nobody writes to the tensors.

    Attributes:
        inputs: (n, ...) float32, all training examples.
        labels: (n,) int64.
        test_inputs: (m, ...) float32, the test set that all nodes share.
        test_labels: (m,) int64.
        classes: labels are below it.
        shares: for each node the (size,) int64 indices of its examples, ascending.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int
    shares: tuple[Tensor, ...]

    @classmethod
    def of(cls, task: ArrayTask, split: str, *, nodes: int, alpha: float, seed: int) -> "DealtTask":
        """Deal a task out; `weft.simulations.tasks.splits` says how.

        Raises:
            BadSplit: a split that does not exist or cannot be done.
        """
        shares = deal_out(split, task.y_train, nodes=nodes, alpha=alpha, seed=seed)
        return cls(
            inputs=_tensor(task.x_train),
            labels=_tensor(task.y_train),
            test_inputs=_tensor(task.x_test),
            test_labels=_tensor(task.y_test),
            classes=task.classes,
            shares=tuple(torch.from_numpy(share) for share in shares),
        )

    def only(self, node: int) -> "DealtTask":
        """What one node holds, copied: its examples and no others, as the only share."""
        mine = self.shares[node]
        return DealtTask(
            inputs=self.inputs[mine],
            labels=self.labels[mine],
            test_inputs=self.test_inputs,
            test_labels=self.test_labels,
            classes=self.classes,
            shares=(torch.arange(len(mine)),),
        )


def _tensor(array: "np.typing.NDArray[np.float32] | np.typing.NDArray[np.int64]") -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
