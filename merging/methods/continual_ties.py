"""Continual TIES: the merged model and the newcomer, trimmed and elected, added again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Need, Scope, Sequential, Totals
from weft.merging.monoids import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualTies(Sequential):
    """M <- M + scale * TIES(M, w D); the first one is M = scale * w D, untrimmed.

    TIES keeps of each of the two, of the d elements of the tensor, those from the
    (d - floor(density d))-th smallest magnitude on, ties with it too, and sums at each
    place what has the sign of their sum. M grows with every newcomer: it is added to, not
    replaced. Weights scale task vectors; a negative one unlearns. Order matters.

    Attributes:
        density: share of M and of each task vector that is kept.
        scale: the factor of what is added.

    Source: the continual TIES baseline of Tang et al. 2025, Merging on the Fly Without
        Retraining, arXiv:2501.09522, as in FusionBench's `opcm/ties_merging.py`. That
        ranks magnitudes over the whole model; here, since a tensor does not know the
        others of M, within the tensor. Where the two cancel exactly it takes the sign
        that has the majority in the whole model; here nothing is added there. The weights
        are ours. Memory: a state of 8 bytes an element, and about 50 while it absorbs.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    density: float = option(0.2, "share of magnitudes that is kept", above=0, most=1)
    scale: float = option(0.5, "factor of what is added to the merged model")

    def scope(self, name: str, shape: Shape) -> Scope:
        """Every tensor whole: magnitudes are ranked."""
        return Scope.MATRIX

    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        """The base, and that nobody came yet."""
        return {
            "merged": torch.zeros(shape, dtype=torch.float64),
            "count": torch.zeros(1, dtype=torch.int64),
        }

    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        """What agrees, added; raises NonFinite where the newcomer is not finite."""
        require_finite(name, [block], [facts])
        merged, delta = state["merged"], facts.weighted(block)
        if bool(state["count"] > 0):
            delta = _agreeing(self._trimmed(merged), self._trimmed(delta))
        return {"merged": merged + self.scale * delta, "count": state["count"] + 1}

    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The merged task vector."""
        return state["merged"]

    def _trimmed(self, delta: Tensor) -> Tensor:
        sizes = delta.abs()
        rank = sizes.numel() - math.floor(self.density * sizes.numel())
        if rank == 0:
            return delta
        return torch.where(sizes >= sizes.flatten().kthvalue(rank).values, delta, 0.0)


def _agreeing(one: Tensor, two: Tensor) -> Tensor:
    """At each place the sum of those that have the sign of their sum."""
    signs = (one + two).sign()
    return signs * ((one * signs).clamp_(min=0) + (two * signs).clamp_(min=0))
