"""The Karcher mean: of all points on the sphere the nearest to all, along the sphere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from weft.merging.distances import Floats
from weft.merging.hyperparameters import option
from weft.merging.method import Combination, Facts
from weft.merging.shares import shares
from weft.merging.spheres import OPPOSED, directions, on_lengths, resultant


@dataclass(frozen=True, slots=True, kw_only=True)
class Karcher(Combination):
    """(sum_i w_i |D_i|) m, where the unit vector m minimises sum_i w_i angle(m, D_i)^2.

    From the mean direction, m steps along the sphere by the weighted mean of the tangents
    that lead to each D_i. All steps stay in the span of the D_i, so only the coefficients
    of m are iterated, with the inner products. Tensor by tensor.

    Weights are shares: positive, and divided by their sum. A zero vector has a length and
    no direction. One right opposite m pulls nowhere; where all directions cancel out (a
    mean shorter than 1e-6), the weighted mean. The mean is unique if all D_i are less than
    a right angle from some direction.

    Attributes:
        iterations: at most so many steps.
        tolerance: a step shorter than this, in radians, is the last.

    Source: Karcher 2014, Riemannian Center of Mass and so called karcher mean,
        arXiv:1407.2087, the gradient step of length one; mergekit's `karcher` has the mean
        length, no weights, and takes the first of directions that cancel out.
    """

    proportional: ClassVar[bool] = True

    iterations: int = option(100, "steps at most", least=1)
    tolerance: float = option(1e-7, "angle of the last step, in radians", least=0)

    @property
    def gives_back_one(self) -> bool:
        """Its own direction at its own length."""
        return True

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """Those of m, at the mean length."""
        parts = shares(facts)
        if len(parts) == 1:
            return parts
        weights = np.array(parts)
        norms, cosines = directions(gram)
        start = np.where(norms > 0, weights, 0.0)
        if resultant(cosines, start) < OPPOSED:
            return parts
        mean = self._mean(cosines, start / start.sum())
        return on_lengths(mean, norms, float(weights @ norms))

    def _mean(self, cosines: Floats, weights: Floats) -> Floats:
        """(n,): m as a combination of unit vectors; zero where a weight is."""
        point = weights / resultant(cosines, weights)
        for _ in range(self.iterations):
            step = _step(cosines, weights, point)
            size = resultant(cosines, step)
            if size <= self.tolerance:
                break
            # sinc(x / pi) is sin(x) / x, also at zero.
            point = np.cos(size) * point + np.sinc(size / np.pi) * step
            point = point / resultant(cosines, point)
        return point


def _step(cosines: Floats, weights: Floats, point: Floats) -> Floats:
    """The weighted mean of the tangents at a point, angle / sin(angle) (u_i - cos u)."""
    nearness = np.clip(cosines @ point, -1.0, 1.0)
    apart = np.sinc(np.arccos(nearness) / np.pi)
    pulls = np.where(apart > OPPOSED, weights / np.maximum(apart, OPPOSED), 0.0)
    tangent: Floats = pulls - (pulls @ nearness) * point
    return tangent
