"""Model Stock: as far from the base towards the mean as the angles say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.method import Combination, Facts, Need
from weft.merging.spheres import directions


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStock(Combination):
    """t * mean_i D_i with t = n q / (1 + (n - 1) q), tensor by tensor.

    q is the mean cosine between two different task vectors: t is 1 where all agree, and 0,
    the base, where they have nothing in common. A zero vector has cosines of zero. Weights
    say who takes part and nothing else; one contribution is given back.

    The sums of D and D / |D| and the count are a state that could be folded in any order,
    for q follows from |sum D / |D||. The inner products are taken instead: a fold that
    sees a block at a time does not know that norm, and would have to hold whole tensors;
    this way it is that of the task vectors, not of sums that were rounded.

    Source: Jang et al. 2024, Model Stock, arXiv:2403.19522, equation for N models; q as
        the mean over pairs is mergekit's reading. A mean cosine below zero counts as zero:
        the formula would go past the base, without bound as q nears -1/(n - 1).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    proportional: ClassVar[bool] = True

    @property
    def gives_back_one(self) -> bool:
        """It agrees with itself."""
        return True

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """All the same: t / n."""
        count = len(facts)
        if count == 1:
            return [1.0]
        _, cosines = directions(gram)
        pairs = (float(cosines.sum()) - float(cosines.trace())) / (count * (count - 1))
        mean = min(max(pairs, 0.0), 1.0)
        return [mean / (1.0 + (count - 1) * mean)] * count
