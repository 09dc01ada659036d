"""TIES: trim, elect signs, merge those that agree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.given import only_cut
from weft.merging.hyperparameters import option
from weft.merging.magnitudes import keep_from
from weft.merging.method import Cut, Extent, Facts, Fold, Need, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.signs import (
    DOWNS,
    NEGATIVE,
    POSITIVE,
    UPS,
    WEIGHTS,
    by_sign,
    mean_of_side,
    sum_of_side,
)
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties(Fold):
    """scale times the mean, or the sum, of the trimmed entries with the elected sign.

    T_i is D_i without its smaller entries: of the d elements of the model, those from the
    (d - floor(density d))-th smallest magnitude on stay, ties with it too. The elected
    sign is that of sum_i w_i T_i, an element. A weight counts in the election and in the
    mean, sum w T / sum |w| over those that agree; a negative one turns T round.

    Attributes:
        density: share of each task vector that is kept.
        extent: over what magnitudes are ranked: the model or each tensor.
        disjoint: what is made of the entries that agree.
        scale: lambda; about 1 for the mean, 0.3 to 0.5 for the sum.
        bound: largest magnitude of w D, a power of two.

    Source: Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, algorithm 1, with the
        threshold of the authors' code; the weights are ours. Where the sum is exactly
        zero they take the sign that has the majority in the whole model; we leave the
        base as it is, since positive and negative are balanced there.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    density: float = option(0.2, "share of each task vector that is kept", above=0, most=1)
    extent: str = option("model", "over what magnitudes are ranked", choices=("model", "tensor"))
    disjoint: str = option("mean", "what is made of those that agree", choices=("mean", "sum"))
    scale: float = option(1.0, "lambda, the factor of the result")
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    @property
    def proportional(self) -> bool:
        """A mean; not a sum."""
        return self.disjoint == "mean"

    @property
    def gives_back_one(self) -> bool:
        """The mean of one that is neither trimmed nor scaled."""
        return self.density == self.scale == 1 and self.disjoint == "mean"

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The smallest magnitude that is kept; none is asked for where all are."""
        if self.density == 1:
            return ()
        return (Cut(rank=partial(_rank, self.density), extent=Extent(self.extent)),)

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """Sums of the kept entries by sign, and for a mean the weights behind them."""
        kept = {field: Sum(bound=self.bound) for field in (POSITIVE, NEGATIVE)}
        return kept if self.disjoint == "sum" else {**kept, UPS: WEIGHTS, DOWNS: WEIGHTS}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W T by sign."""
        kept = keep_from(block, only_cut(name, facts)) if self.cuts else block
        return by_sign(kept, facts.weight)

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """What agrees with the elected sign."""
        elected = torch.sign(state[POSITIVE] + state[NEGATIVE])
        if self.disjoint == "sum":
            return sum_of_side(state, elected).mul_(self.scale)
        return mean_of_side(state, elected, WEIGHTS.unit()).mul_(self.scale)


def _rank(density: float, elements: int) -> int:
    """Of the smallest magnitude that is kept."""
    return elements - math.floor(density * elements)
