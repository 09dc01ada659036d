"""NoLoCo: DiLoCo's outer steps between two nodes at a time, without any mean of all."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.simulations.engines.exchange import Exchange
from weft.simulations.learning.outer import require_momentum, require_rate
from weft.simulations.learning.rule import Rule
from weft.topology.matrices import Mixing


@dataclass
class NoLoCo(Rule):
    """m_i <- mu m_i + nu (mean D + mean phi - phi_i) over a pair; phi_i <- phi_i + m_i.

    phi_i is the model after the last outer step, D_i the trained model minus phi_i; the
    means are over the node and its partner of the round, W's row. Since both means have
    the factor nu, the mean of the trained models is all that has to be exchanged: one
    model a message. A node without a partner takes the outer step alone.

    Attributes:
        lr: nu, the outer rate.
        momentum: mu.

    Source: Kolehmainen et al. 2025, "NoLoCo: no-all-reduce low communication training
        method for large models", arXiv:2506.10911, with the factor of the pull between
        models equal to the outer rate, as in the code that it was released with.
    """

    spectral: ClassVar[bool] = False

    lr: float = 0.7
    momentum: float = 0.5

    def __post_init__(self) -> None:
        require_rate(self.lr)
        require_momentum("momentum", self.momentum)

    def begin(self, rows: Tensor) -> None:
        """Phi is the initial models; no momentum yet."""
        self._outer = rows.clone()
        self._momentum = torch.zeros_like(rows)

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Pull towards the mean of the pair, with momentum."""
        if not mixing.messages:
            return
        pull = exchange.mixed(rows, mixing) - self._outer
        self._momentum.mul_(self.momentum).add_(pull, alpha=self.lr)
        self._outer += self._momentum
        rows.copy_(self._outer)
