"""SCE: select what varies, calculate weights from energies, erase minority signs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.fact_weighted import BOUND
from weft.merging.given import tensor_sums
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Need, Scope, Totals
from weft.merging.monoids import Field, Shape, scalar
from weft.merging.signs import DOWNS, NEGATIVE, POSITIVE, UPS, by_sign, mean_of_side
from weft.merging.sums import Count, Sum

_ROUNDING = 64
"""A variance below so many roundings of the mean square is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sce(Fold):
    """sum_i w_i q_i S_i / sum_i w_i q_i over the S_i that have the sign of sum_i w_i S_i.

    S_i is D_i at the selected elements of the tensor, zero at the others, and
    q_i = mean(S_i^2) over the tensor. Selected are, of those elements whose variance over
    the contributions is not zero, the share `select` with the largest; a tie is selected.
    A weight multiplies D in election, variance and mean, and only the proportions of the
    weights matter; a negative one turns D round.

    With all selected, the energies are facts, one look is enough, and any block can be
    merged for itself. Otherwise it takes the whole tensor and two looks. A variance that
    the rounding of the sums may have made is taken for none: about 1e-14 of the mean
    square, and 1e-30.

    Attributes:
        select: tau, the share of elements that is merged. With 1 all are, whether they
            vary or not; with less, one contribution leaves the base as it is.
        bound: largest magnitude of w D and of w q D, a power of two. Exact sums of the
            latter, cubes of changes, have a unit of 2^-131 of it: by default they keep
            seven digits down to a root mean square of 1e-9, and nothing below 1e-12.

    Source: Wan et al. 2024, FuseChat, arXiv:2408.07990, SCE, with the selection of
        mergekit's `sce` and its sign of a sum of zero, positive; the weights are ours.
        Their default, which is ours, selects all; the paper's recipe a tenth. mergekit
        weighs all alike in a tensor whose mean squares sum to less than 1e-6, we always
        by energy.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE, Need.SUMS})
    proportional: ClassVar[bool] = True

    select: float = option(1.0, "tau, share of the varying elements", above=0, most=1)
    bound: float = option(BOUND, "largest magnitude of w D and of w q D", power_of_two=True)

    @property
    def phases(self) -> int:
        """Two where variances must be known first."""
        return 1 if self.select == 1 else 2

    @property
    def gives_back_one(self) -> bool:
        """Only without selection: one contribution does not vary."""
        return self.select == 1

    def scope(self, name: str, shape: Shape) -> Scope:
        """Whole where elements compete."""
        return Scope.ELEMENT if self.select == 1 else Scope.MATRIX

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """For the sign and the variance; then for the mean, by sign."""
        mean = dict.fromkeys((POSITIVE, NEGATIVE, UPS, DOWNS), self._means)
        if self.select == 1:
            return {"vote": self._votes, **mean}
        if phase == 1:
            return mean
        return {
            "vote": self._votes,
            "squares": self._squares,
            "shares": Sum(limbs=2, extent=scalar),
            "count": Count(extent=scalar),
        }

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W D, and w D^2 for the variance; then w q S by sign."""
        weight = facts.weight
        if previous:
            selected = block * self._selected(previous)
            energy = selected.double().square().mean().item()
            return by_sign(selected, weight * energy)
        vote = block if weight == 1 else block * weight
        if self.select == 1:
            energy = tensor_sums(name, facts).energy
            return {"vote": vote, **by_sign(block, weight * energy)}
        return {
            "vote": vote,
            "squares": block.square().mul_(abs(weight)),
            "shares": torch.tensor(abs(weight), dtype=block.dtype),
            "count": torch.tensor(1),
        }

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The mean of those on the elected side."""
        elected = torch.sign(state["vote"])
        elected.add_(elected == 0)
        return mean_of_side(state, elected, self._means.unit(2))

    @property
    def _means(self) -> Sum:
        return Sum(bound=self.bound, limbs=3)

    @property
    def _votes(self) -> Sum:
        return Sum(bound=self.bound, limbs=2)

    @property
    def _squares(self) -> Sum:
        return Sum(bound=self.bound**2, limbs=3)

    def _selected(self, sums: Mapping[str, Tensor]) -> Tensor:
        """Where the variance is among the largest; a mask of the tensor's shape."""
        mean, squares = sums["vote"] / sums["shares"], sums["squares"] / sums["shares"]
        variance = squares - mean.square()
        varies = variance > self._rounding(sums, mean.abs_(), squares)
        selected = int(self.select * int(torch.count_nonzero(varies)))
        if selected == 0:
            return torch.zeros_like(varies)
        rank = variance.numel() - selected + 1
        least = variance.where(varies, 0.0).flatten().kthvalue(rank).values
        return (variance >= least) & varies

    def _rounding(self, sums: Mapping[str, Tensor], mean: Tensor, squares: Tensor) -> Tensor:
        """What a variance may be where there is none; `mean` and `squares` are modified.

        Floats round by a share of what they hold, each addend of an exact sum by up to half
        a unit; both with room to spare.
        """
        grid = mean.mul_(2 * self._votes.unit(1)).add_(self._squares.unit(2))
        floats = squares.mul_(_ROUNDING * torch.finfo(squares.dtype).eps)
        return floats.add_(grid.mul_(sums["count"] / sums["shares"]))
