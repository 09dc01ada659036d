"""Means whose weights come from facts: an energy, a length, a metric.

Such weights span many orders of magnitude: the energy of a task vector with entries of
10^-4 is 10^-8, and the products of the two are 10^-12, as small as the unit of an exact
sum; with entries of 10^-8 they are 10^-24. So the sums have three limbs. By default that
is a unit of 2^-115, or 2.4e-35: a mean by energies loses about 1e-8 of itself at a root
mean square of 10^-9, 1e-5 at 10^-10, and at 10^-12 all. A smaller `bound` reaches further
down, until the weights are lost too: their sum has a unit of 2^-91, or 4e-28.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.method import Facts, Fold, Totals
from weft.merging.monoids import Field, Shape, scalar
from weft.merging.sums import Sum

BOUND: Final = 2.0**16
"""Default of `bound`; the third limb has a unit of 2^-115."""

_LARGEST_SHARE: Final = 2.0**40


class FactWeighted(Fold, ABC):
    """sum_i v_i D_i / sum_i v_i; a method says what v is."""

    __slots__ = ()

    bound: float

    @property
    def proportional(self) -> bool:
        """A mean goes by the proportions of its weights."""
        return True

    @property
    def gives_back_one(self) -> bool:
        """The mean of one is that one."""
        return True

    @abstractmethod
    def share(self, name: str, facts: Facts) -> float:
        """V, up to a factor that all contributions have in common.

        Args:
            name: of the tensor.
            facts: of one contribution.
        """

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The weighted sum, and the sum of the weights."""
        return {
            "sum": Sum(bound=self.bound, limbs=3),
            "shares": Sum(bound=_LARGEST_SHARE, limbs=3, extent=scalar),
        }

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """V D, and v."""
        share = self.share(name, facts)
        return {"sum": block * share, "shares": torch.tensor(share, dtype=block.dtype)}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The quotient; zero where nobody moved."""
        shares = state["shares"].item()
        if shares > 0:
            return state["sum"] / shares
        if shares < 0 or bool(state["sum"].any()):
            raise CannotMerge(
                f"tensor {name!r}: the weights of {totals.count} contributions come to"
                f" {shares:g} in sum; a mean needs more than zero"
            )
        return state["sum"]
