"""The weighted mean: model soups, and what neighbours do in decentralised averaging."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(Fold):
    """sum_i w_i D_i / sum_i w_i.

    Only the proportions of the weights matter: shares, rows of a mixing matrix or
    numbers of samples. Their sum must be positive.

    Attributes:
        bound: largest magnitude of w D, a power of two.

    Source: Wortsman et al. 2022, Model soups, arXiv:2203.05482, the uniform soup, here
        with weights; row i of a mixing matrix as weights is decentralised averaging.
    """

    proportional: ClassVar[bool] = True
    passes_on: ClassVar[bool] = True

    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    @property
    def gives_back_one(self) -> bool:
        """The mean of one is that one."""
        return True

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The weighted sum; the sum of the weights is among the totals."""
        return {"sum": Sum(bound=self.bound)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W D."""
        return {"sum": facts.weighted(block)}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The quotient."""
        if not totals.weight > 0:
            raise CannotMerge(
                f"tensor {name!r}: the weights of {totals.count} contributions sum to"
                f" {totals.weight:g}; a mean needs more than zero"
            )
        return state["sum"].div_(totals.weight)
