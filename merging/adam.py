"""Adam for one tensor, as plainly as can be: a few fixed steps, the same on every machine.

>>> values = torch.tensor([1.0, -2.0])
>>> Adam(rate=0.5).step(values, torch.tensor([3.0, -0.1]))
>>> values.tolist()
[0.5, -1.5]
"""

from typing import Final

import torch
from torch import Tensor

_FIRST: Final = 0.9
_SECOND: Final = 0.999
_EPSILON: Final = 1e-8


class Adam:
    """The moments of one tensor's gradients.

    Source: Kingma and Ba 2015, Adam, arXiv:1412.6980, algorithm 1, with their constants.

    Args:
        rate: alpha, about the largest change of an element in a step.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._steps = 0
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def step(self, values: Tensor, gradient: Tensor) -> None:
        """Change the values, in place, against a gradient of their shape and dtype."""
        if self._first is None or self._second is None:
            self._first, self._second = torch.zeros_like(values), torch.zeros_like(values)
        self._steps += 1
        self._first.mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
        self._second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
        root = (self._second / (1 - _SECOND**self._steps)).sqrt_().add_(_EPSILON)
        values.addcdiv_(self._first, root, value=-self._rate / (1 - _FIRST**self._steps))
