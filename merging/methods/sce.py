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
from weft.merging.sums import Sum

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
    merged for itself. Otherwise it takes the whole tensor and two looks.

    Attributes:
        select: tau, the share of elements that is merged. With 1 all are, whether they
            vary or not; with less, one contribution leaves the base as it is.
        bound: largest magnitude of w D and of w q D, a power of two.

    Source: Wan et al. 2024, FuseChat, arXiv:2408.07990, SCE, with the selection of
        mergekit's `sce` and its sign of a sum of zero, positive; the weights are ours.
        Their default, which is ours, selects all; the paper's recipe a tenth.
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
        mean = {field: self._sum() for field in (POSITIVE, NEGATIVE, UPS, DOWNS)}
        if self.select == 1:
            return {"vote": Sum(bound=self.bound), **mean}
        if phase == 1:
            return mean
        return {
            "vote": self._sum(),
            "squares": Sum(bound=self.bound**2, limbs=2),
            "shares": Sum(limbs=2, extent=scalar),
        }

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W D, and w D^2 for the variance; then w q S by sign."""
        weight = facts.weight
        if previous:
            selected = block * _selected(previous, self.select)
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
        }

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The mean of those on the elected side."""
        elected = torch.sign(state["vote"])
        elected.add_(elected == 0)
        return mean_of_side(state, elected, self._sum().unit(1))

    def _sum(self) -> Sum:
        return Sum(bound=self.bound, limbs=2)


def _selected(sums: Mapping[str, Tensor], share: float) -> Tensor:
    """Where the variance is among the largest; a mask of the tensor's shape."""
    squares = sums["squares"] / sums["shares"]
    variance = squares - (sums["vote"] / sums["shares"]).square_()
    rounding = _ROUNDING * torch.finfo(variance.dtype).eps
    varies = variance > squares * rounding
    selected = int(share * int(torch.count_nonzero(varies)))
    if selected == 0:
        return torch.zeros_like(varies)
    rank = variance.numel() - selected + 1
    least = variance.where(varies, 0.0).flatten().kthvalue(rank).values
    return (variance >= least) & varies
