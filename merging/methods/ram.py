"""RAM: entries that one agent alone changed are kept whole, shared ones averaged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Fold, Need, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.signs import WEIGHTS, quotient
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram(Fold):
    """sum_i w_i z_i / sum_i |w_i| [z_i != 0], z_i = D_i where |D_i| > threshold, else 0.

    For task vectors of reinforcement learning, most of whose entries are zero: a mean over
    all would dilute what one agent alone has learnt. Only the proportions of the weights
    matter, and only between those that share an entry; a negative one turns D round.

    Attributes:
        threshold: epsilon, the magnitude up to which an entry counts as unchanged.
        bound: largest magnitude of w D, a power of two.

    Source: Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models,
        arXiv:2601.13572, RAM, as mergekit's `ram` has it; the weights are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    proportional: ClassVar[bool] = True

    threshold: float = option(1e-5, "magnitude up to which nothing has changed", least=0)
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    @property
    def gives_back_one(self) -> bool:
        """To within the threshold, so only where that is as small as by default."""
        return self.threshold <= 1e-5

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The changed entries, and the weights behind them."""
        return {"sum": Sum(bound=self.bound), "shares": WEIGHTS}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W z, and |w| where z is not zero."""
        changed = hardshrink(block, self.threshold)
        weights = torch.sign(changed).abs_()
        if facts.weight != 1:
            changed.mul_(facts.weight)
            weights.mul_(abs(facts.weight))
        return {"sum": changed, "shares": weights}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The quotient; zero where nobody changed anything."""
        return quotient(state["sum"], state["shares"], WEIGHTS.unit())
