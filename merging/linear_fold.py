"""Folds that treat linear weights as matrices, and average everything else.

The methods that look at spectra do so for linear weights only. Here is what they share:
which tensors those are, and what becomes of the others. Only the proportions of the
weights matter: they are brought to a mean of one, so that shares, rows of a mixing matrix
and numbers of samples all give the strength that weights of one would.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.matrices import is_linear, linear_scope
from weft.merging.method import Facts, Fold, Need, Scope, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum


class LinearFold(Fold):
    """A fold with a state of its own for linear weights; the weighted mean for others."""

    __slots__ = ()

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    proportional: ClassVar[bool] = True

    bound: float
    tables: str

    @abstractmethod
    def linear_fields(self, shape: Shape) -> Mapping[str, Field]:
        """The fields of the state of a linear weight, (out, in)."""

    @abstractmethod
    def lift_linear(self, delta: Tensor, weight: float) -> Mapping[str, Tensor]:
        """One contribution's task vector, (out, in), as an addend for each field."""

    @abstractmethod
    def finish_linear(self, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The merged task vector, (out, in), float64; the weights sum to more than zero."""

    def scope(self, name: str, shape: Shape) -> Scope:
        """Linear weights whole."""
        return linear_scope(name, shape, self.tables)

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The linear weight's own, or the weighted sum."""
        if is_linear(name, shape, self.tables):
            return self.linear_fields(shape)
        return {"sum": Sum(bound=self.bound)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """The linear weight's own, or w D."""
        if is_linear(name, tuple(block.shape), self.tables):
            return self.lift_linear(block, facts.weight)
        return {"sum": facts.weighted(block)}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The linear weight's own, or the quotient."""
        if not totals.weight > 0:
            raise CannotMerge(
                f"tensor {name!r}: the weights of {totals.count} contributions sum to"
                f" {totals.weight:g}; their mean must be more than zero"
            )
        total = state.get("sum")
        if total is None or is_linear(name, tuple(total.shape), self.tables):
            dtype = next(iter(state.values())).dtype
            return self.finish_linear(state, totals).to(dtype)
        return total / totals.weight


def mean_to_one(totals: Totals) -> float:
    """The factor that brings weights to a mean of one: n / sum_i w_i."""
    return totals.count / totals.weight


def square_of_inputs(shape: Shape) -> Shape:
    """Of a sum over Gram matrices of a linear weight, (out, in): (in, in)."""
    return (shape[1], shape[1])


def square_of_smaller(shape: Shape) -> Shape:
    """Of a sum over Gram matrices on the smaller side of a linear weight: (side, side)."""
    return (min(shape), min(shape))


def row_of_inputs(shape: Shape) -> Shape:
    """Of a sum over rows of a linear weight, (out, in): (in,)."""
    return (shape[1],)
