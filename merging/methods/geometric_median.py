"""The geometric median: the point with the smallest sum of distances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from weft.merging.distances import Floats, distances_from
from weft.merging.hyperparameters import option
from weft.merging.method import Combination, Extent, Facts
from weft.merging.shares import shares


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMedian(Combination):
    """The z with the smallest sum_i w_i |z - D_i|, over the whole model.

    Weiszfeld's iteration: z is the mean of the D_i with weights w_i / max(v, |z - D_i|),
    again and again, from the weighted mean. z is a combination of the D_i, so only its
    coefficients are iterated, with the inner products.

    Contributions that hold less than half of the weight cannot carry it away: if all
    others lie within a radius r of each other's centre, so does z within
    2 (1 - b) / (1 - 2 b) r, where b is the share of the bad ones. Weights are shares:
    positive, and divided by their sum.

    Attributes:
        smoothing: v as a share of the median norm of the D_i. Distances of 1e-8 norms are
            lost in rounding, so it should not be less.
        iterations: at most so many.
        tolerance: ends when no coefficient changes by more.

    Source: Pillutla et al. 2022, Robust Aggregation for Federated Learning,
        arXiv:1912.13445, the smoothed Weiszfeld algorithm; there v is absolute, and few
        iterations are made because each is a round of communication.
    """

    span: ClassVar[Extent] = Extent.MODEL
    proportional: ClassVar[bool] = True

    smoothing: float = option(1e-6, "least distance, in median norms", above=0)
    iterations: int = option(1000, "iterations at most", least=1)
    tolerance: float = option(1e-10, "change of a coefficient in the last iteration", least=0)

    @property
    def gives_back_one(self) -> bool:
        """The nearest to one is that one."""
        return True

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """Shares of one, small for those that are far away."""
        parts = shares(facts)
        products: Floats = gram.numpy()
        norms = np.sqrt(products.diagonal())
        # The median norm is zero where most moved nothing.
        least = self.smoothing * (float(np.median(norms)) or float(norms.max()))
        if len(parts) == 1 or least == 0:
            return parts
        coefficients: list[float] = self._iterate(products, np.array(parts), least).tolist()
        return coefficients

    def _iterate(self, gram: Floats, weights: Floats, least: float) -> Floats:
        """(n,): z as a mean of the D_i."""
        point = weights
        for _ in range(self.iterations):
            pulls = weights / np.maximum(distances_from(gram, point), least)
            before, point = point, pulls / pulls.sum()
            if np.abs(point - before).max() <= self.tolerance:
                break
        return point
