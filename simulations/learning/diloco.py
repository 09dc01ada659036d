"""Outer optimizers over the mean of all: DiLoCo's momentum, and FedAdam's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.simulations.learning.outer import OuterStep, require_momentum, require_rate
from weft.topology.options import require


@dataclass
class DiLoCo(OuterStep):
    """m <- mu m + D; theta <- theta - nu (D + mu m), or - nu m without Nesterov.

    Attributes:
        lr: nu, the outer rate; 1 with no momentum is FedAvg.
        momentum: mu.
        nesterov: look ahead; without, this is FedAvgM.

    Source: Douillard et al. 2023, "DiLoCo: distributed low-communication training of
        language models", arXiv:2311.08105, Algorithm 1; the inner optimizer is the task's.
    """

    lr: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        require_rate(self.lr)
        require_momentum("momentum", self.momentum)

    def begin(self, rows: Tensor) -> None:
        """No momentum yet."""
        super().begin(rows)
        self._momentum = torch.zeros_like(self._outer)

    def step(self, outer: Tensor, gradient: Tensor) -> Tensor:
        """Momentum, then the step."""
        self._momentum = self.momentum * self._momentum + gradient
        ahead = gradient + self.momentum * self._momentum if self.nesterov else self._momentum
        return outer - self.lr * ahead


@dataclass
class FedAdam(OuterStep):
    """m <- b1 m + (1 - b1) D; v <- b2 v + (1 - b2) D^2; theta <- theta - nu m / (sqrt(v) + tau).

    Without bias correction, as in the paper; v starts at tau^2.

    Attributes:
        lr: nu, the outer rate.
        beta1, beta2: how much of the two moments stays.
        tau: how far the rate adapts: the smaller, the more.

    Source: Reddi et al. 2021, "Adaptive federated optimization", Algorithm 2, FedAdam.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        require_rate(self.lr)
        require_momentum("beta1", self.beta1)
        require_momentum("beta2", self.beta2)
        require(self.tau > 0, "tau", self.tau, "above 0")

    def begin(self, rows: Tensor) -> None:
        """No gradient yet."""
        super().begin(rows)
        self._first = torch.zeros_like(self._outer)
        self._second = torch.full_like(self._outer, self.tau**2)

    def step(self, outer: Tensor, gradient: Tensor) -> Tensor:
        """Moments, then the step."""
        self._first = self.beta1 * self._first + (1 - self.beta1) * gradient
        self._second = self.beta2 * self._second + (1 - self.beta2) * gradient.square()
        return outer - self.lr * self._first / (self._second.sqrt() + self.tau)
