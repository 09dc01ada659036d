"""DELLA: as DARE, but what moved far is dropped less often."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from weft.merging.draws import STEPS, uniform16
from weft.merging.errors import BadOption
from weft.merging.facts import missing
from weft.merging.hyperparameters import option
from weft.merging.magnitudes import magnitudes
from weft.merging.method import Facts, Need, Scope, Transform
from weft.merging.monoids import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Della(Transform):
    """D' = m D / q, with m = 1 of probability q, else 0, by the rank within the row.

    The n elements of a row are ranked by magnitude, r = 0 for the smallest, and
    q = density - epsilon + 2 epsilon r / (n - 1); density where the row has one. On
    average over all draws, D' is D. Draws go by the contribution's key, the tensor's
    name and the element's place. Of equal magnitudes the earlier place is the lower
    rank. A vector is one row.

    Attributes:
        density: mean share that is kept.
        epsilon: how far q goes to either side. All q are above zero and at most one,
            rounded to multiples of 2^-16, and divided by as they were rounded.

    Source: Deep et al. 2024, DELLA-Merging, arXiv:2406.11617, MagPrune, as in the
        authors' code and mergekit, where epsilon is half the window of probabilities.
        mergekit then matches the L1 norm; like the authors, we divide by q.
    """

    cpu_only: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.KEY})

    density: float = option(0.5, "mean share of the elements that is kept", above=0, below=1)
    epsilon: float = option(0.15, "how far the share goes up and down", least=0, below=0.5)

    def check(self) -> None:
        """All probabilities lie above zero and at most at one."""
        if self.density - self.epsilon <= 0 or self.density + self.epsilon > 1:
            raise BadOption(
                f"della: density {self.density:g} and epsilon {self.epsilon:g} give"
                f" probabilities from {self.density - self.epsilon:g} to"
                f" {self.density + self.epsilon:g}, expected above 0 and at most 1"
            )

    def scope(self, name: str, shape: Shape) -> Scope:
        """Ranks are those within a row."""
        return Scope.ROW

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """What is kept, each divided by its probability."""
        if not facts.key:
            raise missing(facts, name, Need.KEY)
        rows = block.reshape(1, -1) if block.ndim < 2 else block.flatten(1)
        draws = uniform16(facts.key, name, facts.offset, block.numel()).astype(np.int32)
        order = magnitudes(rows).argsort(dim=1, stable=True)
        steps = self._steps(rows.shape[1])
        kept = torch.from_numpy(draws).reshape(rows.shape).gather(1, order) < steps
        by_rank = kept.to(block.dtype).mul_((STEPS / steps).to(block.dtype))
        return torch.empty_like(by_rank).scatter_(1, order, by_rank).mul_(rows).reshape(block.shape)

    def _steps(self, columns: int) -> Tensor:
        """Of the probability of each rank: (columns,), float64, whole numbers."""
        if columns == 1:
            return torch.tensor([max(1.0, round(self.density * STEPS))], dtype=torch.float64)
        shares = np.linspace(self.density - self.epsilon, self.density + self.epsilon, columns)
        return torch.from_numpy(np.rint(shares * STEPS).clip(1, STEPS))
