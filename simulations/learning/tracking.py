"""Corrected gossip: nodes with different data agree on the optimum of all, at a constant rate.

Gossip stops short of it: where models agree, gradients of different data pull them apart
again. Both rules here learn, as rounds go by, how a node's pull differs from everybody's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.simulations.engines.exchange import Exchange
from weft.simulations.learning.rule import Rule
from weft.simulations.learning.traffic import FLOAT32, Traffic, messages
from weft.topology.matrices import Mixing


@dataclass
class GradientTracking(Rule):
    """x_i <- sum_j W_ij (x_j - y_j), with y_i <- sum_j W_ij y_j + d_i(new) - d_i(old).

    d_i is the pseudo-gradient: the model after the last exchange minus the trained model.
    The sum of y over all nodes is that of d after every exchange. What pulls apart
    *within* a round of several steps stays, as it does in FedAvg.

    Attributes:
        diging: x_i <- sum_j W_ij x_j - y_i instead: with one plain gradient step a round
            and a constant rate, d = eta g and this is DIGing exactly. It takes small steps
            only; rounds of several steps tend to throw nodes apart.
        corrections: (rows, P), sum_j W_ij y_j - d_i of the last exchange, what comes on
            top of a node's own next pseudo-gradient; zero in sum over all nodes.

    Source: Nedić, Olshevsky and Shi 2017, "Achieving geometric convergence for distributed
        optimization over time-varying graphs", DIGing; Di Lorenzo and Scutari 2016, "NEXT:
        in-network nonconvex optimization", for the step before the mixing.
    """

    spectral: ClassVar[bool] = False

    diging: bool = False

    def begin(self, rows: Tensor) -> None:
        """No correction yet: the first y is the first d."""
        self._started = rows.clone()
        self.corrections = torch.zeros_like(rows)

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Follow the tracked direction, and mix it and the models."""
        if not mixing.messages:
            return
        gradients = self._started - rows
        tracked = self.corrections + gradients
        if self.diging:
            rows.copy_(exchange.mixed(self._started, mixing) - tracked)
        else:
            rows.copy_(exchange.mixed(self._started - tracked, mixing))
        self._started.copy_(rows)
        self.corrections = exchange.mixed(tracked, mixing) - gradients

    def traffic(self, mixing: Mixing, size: int) -> Traffic:
        """Two of a model's size: x and y."""
        return messages(mixing, 2 * FLOAT32 * size)


@dataclass
class ExactDiffusion(Rule):
    """x_i <- sum_j V_ij (t_j + x_j(old) - t_j(old)) with V = (I + W) / 2, t the trained models.

    The correction is the last exchange's own step, x(old) - t(old): one message a round,
    where gradient tracking takes two. W must be symmetric and stay the same. With one
    plain gradient step a round this is exact diffusion, also known as D2.

    Attributes:
        corrections: (rows, P), x - t of the last exchange; zero in sum over all nodes.

    Source: Yuan, Ying, Zhao and Sayed 2019, "Exact diffusion for distributed optimization
        and learning - part I", Algorithm 1.
    """

    spectral: ClassVar[bool] = False

    def begin(self, rows: Tensor) -> None:
        """No correction yet."""
        self.corrections = torch.zeros_like(rows)

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Correct, mix, keep what the mixing did."""
        if not mixing.messages:
            return
        corrected = rows + self.corrections
        mixed = (corrected + exchange.mixed(corrected, mixing)) / 2
        self.corrections = mixed - rows
        rows.copy_(mixed)
