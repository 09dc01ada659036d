"""Task arithmetic: the scaled sum of task vectors; a negative scale unlearns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Need, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArithmetic(Fold):
    """scale * sum_i w_i D_i.

    Attributes:
        scale: lambda. 0.3 is the usual choice for about eight vision tasks, 0.3 to 1.0
            for language models; 1/n with weights of one is the mean. Tune it.
        bound: largest magnitude of w D, a power of two.

    Source: Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089,
        section 2; the weights are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    passes_on: ClassVar[bool] = True

    scale: float = option(0.3, "lambda, the factor of the sum; negative unlearns")
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The weighted sum."""
        return {"sum": Sum(bound=self.bound)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W D."""
        return {"sum": facts.weighted(block)}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The sum, scaled."""
        return state["sum"].mul_(self.scale)
