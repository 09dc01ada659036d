"""MagMax: at each place, the task vector that moved furthest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.extremes import Max, Min
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Need, Totals
from weft.merging.monoids import Field, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class MagMax(Fold):
    """scale * the D_i of largest magnitude, element by element.

    The largest magnitude is at the largest or at the smallest value, so the state is
    those two. Of a tie, +d and -d, the positive one wins, whatever the order. Weights
    say who takes part (zero: not) and nothing else. Duplicates are harmless; nothing
    can be removed.

    Attributes:
        scale: lambda; 0.5 is the fixed value of the authors' released script. With 1,
            one contribution is given back.

    Source: Marczak et al. 2024, MagMax, arXiv:2407.06322, theta_0 + lambda tau with
        tau^p = tau_k^p, k = argmax_i |tau_i^p|. Their code lets the later of a tie win;
        ours does not depend on order.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    scale: float = option(0.5, "lambda, the factor of the result")

    @property
    def gives_back_one(self) -> bool:
        """Only unscaled."""
        return self.scale == 1

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The largest and the smallest value."""
        return {"highest": Max(), "lowest": Min()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """D itself, for both."""
        return {"highest": block, "lowest": block}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """Whichever is further from zero, scaled."""
        highest, lowest = state["highest"], state["lowest"]
        return torch.where(highest.abs() >= lowest.abs(), highest, lowest) * self.scale
