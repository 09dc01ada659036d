"""Consensus: of the sum of all task vectors, what at least k of them want to keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.masks import wanted
from weft.merging.method import Facts, Fold, Need, Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Count, Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus(Fold):
    """scale * S where sum_i [|w_i D_i| >= share |S - w_i D_i|] >= models; S = sum_i w_i D_i.

    A task vector wants an entry of S where the entry is nearer to its own than to that of
    all others. What nobody wants is noise, what one wants is selfish; both are left out.
    Two looks at each contribution: the sum, and then who wants what. The mask of one
    contribution, to get its task vector back from S, is in `weft.merging.masks`.

    Attributes:
        share: lambda, how large against all others an entry must be to be wanted; 0.2 to
            0.6. The paper tunes one for each task; here one serves all.
        models: k, how many must want an entry.
        scale: factor of what is kept.
        bound: largest magnitude of w D, a power of two.

    Source: Wang et al. 2024, Localizing task information for improved model merging and
        compression, arXiv:2405.07813, TALL masks and consensus merging on top of task
        arithmetic; the authors' code wants an entry only beyond equality. The weights
        are ours.
    """

    cpu_only: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})
    phases: ClassVar[int] = 2

    share: float = option(0.4, "lambda, what an entry must be against the others", above=0)
    models: int = option(2, "k, how many must want an entry", least=1)
    scale: float = option(0.4, "factor of what is kept")
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The sum; then how many want an entry."""
        return {"wanted": Count()} if phase else {"sum": Sum(bound=self.bound)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """W D; then 1 where it is wanted."""
        weighted = facts.weighted(block)
        if previous:
            return {"wanted": wanted(weighted, previous["sum"], self.share)}
        return {"sum": weighted}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """What enough of them want, scaled."""
        kept = (state["wanted"] - (self.models - 1)).clamp_(min=0, max=1)
        return kept.mul_(state["sum"]).mul_(self.scale)
