"""Centred clipping: a mean in which no one pulls further than a radius."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import ClassVar

import numpy as np
from torch import Tensor

from weft.merging.distances import Floats, distances_from
from weft.merging.hyperparameters import option
from weft.merging.method import Combination, Extent, Facts, Need
from weft.merging.shares import shares


@dataclass(frozen=True, slots=True, kw_only=True)
class CenteredClipping(Combination):
    """v <- v + sum_i w_i (D_i - v) min(1, radius / |D_i - v|), from v = 0, the base.

    Over the whole model; v is a combination of the D_i, so only its coefficients are
    iterated, with the inner products. What can be relied on, whatever anybody sends:
    |v| <= iterations * radius, |v| <= max_i |D_i|, and contributions with a share b of the
    weights move v by no more than b * radius an iteration, compared with their pulling
    not at all (each step is nonexpansive in v). Weights are shares: positive, and divided
    by their sum.

    Attributes:
        radius: how far one may pull, in units of the parameters' norm. 0: the median of
            the norms |D_i|, the lower of two middle ones, so that it is never longer than
            the longest of the good ones while half are good; these bounds then hold for
            that radius.
        iterations: one clips the norms; more move the centre to where most are.

    Source: Karimireddy et al. 2021, Learning from History for Byzantine Robust
        Optimization, arXiv:2012.10333, the centered clipping iteration. There v starts
        at the last round's result; the weights and the choice of a radius are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    proportional: ClassVar[bool] = True
    span: ClassVar[Extent] = Extent.MODEL

    radius: float = option(0.0, "how far one may pull; 0: the median norm", least=0)
    iterations: int = option(3, "how often the centre moves", least=1)

    @property
    def gives_back_one(self) -> bool:
        """Where the radius is its own norm."""
        return self.radius == 0

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """Those of v."""
        weights = np.array(shares(facts))
        products: Floats = gram.numpy()
        centre = np.zeros_like(weights)
        radius = self.radius or median_low(distances_from(products, centre).tolist())
        for _ in range(self.iterations):
            pulls = weights * _clipped(distances_from(products, centre), radius)
            centre = centre * (1.0 - pulls.sum()) + pulls
        coefficients: list[float] = centre.tolist()
        return coefficients


def _clipped(distances: Floats, radius: float) -> Floats:
    """min(1, radius / distance); 1 where there is no distance."""
    kept = np.ones_like(distances)
    np.divide(radius, distances, out=kept, where=distances > radius)
    return kept
