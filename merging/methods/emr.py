"""EMR: one vector that holds, for each elected sign, whoever went furthest that way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.extremes import Max, Min
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Need, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Emr(Fold):
    """scale * u, u the furthest of the D_i on the side of sum_i D_i, an element.

    Weights only say who is there. As one model u is too long, hence the scale; its
    purpose is that each contributor gets its own task vector back from it with one bit
    an element and one number (`weft.merging.masks`, which take u unscaled).

    Attributes:
        scale: the factor of the unified vector. With 1, one contribution is given back.
        bound: largest magnitude of D, a power of two.

    Source: Huang et al. 2024, EMR-Merging, arXiv:2405.17461, section 3, the unified task
        vector; a sum of exactly zero counts as negative, as in the authors' code. The
        scale is ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    scale: float = option(1.0, "factor of the unified vector")
    bound: float = option(2.0**12, "largest magnitude of D", power_of_two=True)

    @property
    def gives_back_one(self) -> bool:
        """Only unscaled."""
        return self.scale == 1

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The sum, for the sign, and both ends."""
        return {"sum": Sum(bound=self.bound), "highest": Max(), "lowest": Min()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """D itself, for all three."""
        return {"sum": block, "highest": block, "lowest": block}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The end on the elected side, scaled."""
        return torch.where(state["sum"] > 0, state["highest"], state["lowest"]) * self.scale
