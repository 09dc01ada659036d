"""RAM+: as RAM, and the entries of one agent alone are made up for its shared ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Need, Scope, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.signs import WEIGHTS, quotient
from weft.merging.sums import Count, Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class RamPlus(Fold):
    """The entries of i alone times 1 + rate * min(shared_i / unique_i, most); else RAM.

    shared_i and unique_i count the entries of the tensor that i changed with others and
    alone: the more of its entries are averaged away, the more the others are raised. Two
    looks at each contribution: who changed what, and then the ratio of each. What weights
    do is as in RAM: nothing to entries that one alone changed.

    Attributes:
        rate: r, how much the ratio counts.
        ceiling: alpha, the largest ratio that counts.
        threshold: epsilon, the magnitude up to which an entry counts as unchanged.
        bound: largest magnitude of w D, a power of two.

    Source: Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models,
        arXiv:2601.13572, RAM+, with the ratio taken over each tensor, as in mergekit's
        `ramplus_tl`, and not over the model; the weights are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    proportional: ClassVar[bool] = True
    phases: ClassVar[int] = 2

    rate: float = option(0.1, "r, how much the ratio of shared to unique counts", least=0)
    ceiling: float = option(0.2, "alpha, the largest ratio that counts", least=0)
    threshold: float = option(1e-5, "magnitude up to which nothing has changed", least=0)
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    @property
    def gives_back_one(self) -> bool:
        """To within the threshold, so only where that is as small as by default."""
        return self.threshold <= 1e-5

    def scope(self, name: str, shape: Shape) -> Scope:
        """Whole: entries are counted."""
        return Scope.MATRIX

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """As RAM and how many changed an entry; then what one alone changed."""
        if phase == 1:
            return {"unique": Sum(bound=self.bound)}
        return {"sum": Sum(bound=self.bound), "shares": WEIGHTS, "holders": Count()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W z, |w| and 1 where z is not zero; then the raised z of its own."""
        changed = hardshrink(block, self.threshold)
        if previous:
            return {"unique": self._raised(changed, previous["holders"], facts.weight)}
        holds = torch.sign(changed).abs_()
        return {
            "sum": changed.mul_(facts.weight),
            "shares": holds * abs(facts.weight),
            "holders": holds.to(torch.int32),
        }

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """What one alone changed as it was raised, the others as means."""
        shared = quotient(state["sum"], state["shares"], WEIGHTS.unit())
        return torch.where(state["holders"] == 1, state["unique"], shared)

    def _raised(self, changed: Tensor, holders: Tensor, weight: float) -> Tensor:
        # Where holders is 1; a product costs a fifth of a choice. At 0 nothing has changed.
        alone = (2 - holders).clamp_(min=0).mul_(changed)
        unique = int(torch.count_nonzero(alone))
        shared = int(torch.count_nonzero(changed)) - unique
        factor = 1 + self.rate * min(shared / max(unique, 1), self.ceiling)
        return alone.mul_(factor if weight > 0 else -factor)
