"""Push-sum: averages on directed graphs, where no node can make its row sum to one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.simulations.engines.exchange import Exchange
from weft.simulations.learning.rule import Rule
from weft.simulations.learning.traffic import FLOAT32, Traffic, messages
from weft.topology.matrices import Mixing

WEIGHT_BYTES = 8.0
"""Of a node's push-sum weight, float64."""


@dataclass
class PushSum(Rule):
    """x_i <- sum_j A_ij (x_j + d_j), w_i <- sum_j A_ij w_j; nodes train z_i = x_i / w_i.

    A's columns sum to one, its rows need not; d_j is what training did to z_j since the
    last exchange. The sum of x is kept, so the z_i go to the mean of all, though the x_i
    do not; z is what nodes hold and what is evaluated.

    Attributes:
        weights: (rows, 1) float64, w; above zero, and n in sum over all nodes.

    Source: Assran et al. 2019, "Stochastic gradient push for distributed deep learning",
        Algorithm 1, with any number of local steps in the place of one.
    """

    def begin(self, rows: Tensor) -> None:
        """Start with x = z = the models, and w = 1."""
        self._numerators = rows.clone()
        self.weights = torch.ones(len(rows), 1, dtype=torch.float64, device=rows.device)

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Send shares of x and w."""
        if not mixing.messages:
            return
        self._numerators = exchange.mixed(self._pushed(rows), mixing)
        self.weights = exchange.mixed(self.weights, mixing)
        rows.copy_(self._read())

    def traffic(self, mixing: Mixing, size: int) -> Traffic:
        """A model and a weight."""
        return messages(mixing, FLOAT32 * size + WEIGHT_BYTES)

    def mean(self, rows: Tensor, exchange: Exchange) -> Tensor:
        """(P,) float64: of x, the mean that is kept; that of the z_i, weighted by w_i."""
        return exchange.mean(self._pushed(rows))

    def _pushed(self, rows: Tensor) -> Tensor:
        """(rows, P): x with what training did to z since the last exchange."""
        return self._numerators + (rows - self._read())

    def _read(self) -> Tensor:
        """(rows, P): z as it was after the last exchange, to the bit."""
        return self._numerators / self.weights.to(self._numerators.dtype)
