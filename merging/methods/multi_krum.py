"""Multi-Krum: the mean of the contributions that lie closest to most others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.method import Combination, Extent, Facts
from weft.merging.methods.krum import krum_scores, withstood
from weft.merging.shares import shares


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiKrum(Combination):
    """The weighted mean of the m D_i with the smallest Krum scores, over the whole model.

    A score is the sum of squared distances to the n - f - 2 nearest others, whatever the
    weights; of a tie, the first by name. Needs n >= 2 f + 3, and m <= n - f, or a hostile
    one would be averaged for certain. Weights are shares: positive, and those of the
    chosen ones divided by their sum.

    Attributes:
        hostile: f, how many may be hostile. -1: as many as n withstands, (n - 3) / 2
            rounded down.
        kept: m. 0: n - f - 2, at least one, which the paper's proof allows.

    Source: Blanchard et al. 2017, Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, arXiv:1703.02757, section on Multi-Krum; the weights are ours.
        Some call m = n - f Multi-Krum.
    """

    span: ClassVar[Extent] = Extent.MODEL
    proportional: ClassVar[bool] = True

    hostile: int = option(-1, "f, how many may be hostile; -1: as many as can be", least=-1)
    kept: int = option(0, "m, how many are averaged; 0: n - f - 2", least=0)

    @property
    def gives_back_one(self) -> bool:
        """There is no other to choose; refused where others were counted on."""
        return self.hostile <= 0 and self.kept <= 1

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """Shares of the chosen ones, zero for all others."""
        count = len(facts)
        hostile = withstood(self, self.hostile, count)
        kept = self.kept or max(count - hostile - 2, 1)
        if kept > count - hostile:
            raise CannotMerge(
                f"multi_krum: {kept} are to be averaged of {count} contributions,"
                f" {hostile} of which may be hostile; expected at most {count - hostile}"
            )
        best = np.argsort(krum_scores(gram, hostile), kind="stable")[:kept]
        chosen = sorted(int(index) for index in best)
        found = [0.0] * count
        for index, part in zip(chosen, shares([facts[i] for i in chosen]), strict=True):
            found[index] = part
        return found
