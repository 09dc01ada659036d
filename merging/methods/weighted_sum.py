"""The plain weighted sum: what a combination is once its coefficients are known."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSum(Fold):
    """sum_i w_i D_i; not registered, as task arithmetic with a scale of one is the same.

    Attributes:
        bound: largest magnitude of w D, a power of two.
    """

    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The weighted sum."""
        return {"sum": Sum(bound=self.bound)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W D."""
        return {"sum": block if facts.weight == 1 else block * facts.weight}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The sum."""
        return state["sum"]
