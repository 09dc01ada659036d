"""Norm clip: no task vector longer than so much."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.errors import NonFinite
from weft.merging.facts import missing
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Need, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class NormClip(Transform):
    """D' = D min(1, longest / |D|), with the Euclidean norm over the whole model.

    A guard: methods that go by magnitude or energy would give most weight to the one
    contribution that is far too large.

    Attributes:
        longest: no task vector is longer. The median of the norms of good contributions
            is a place to start.

    Source: Sun et al. 2019, Can You Really Backdoor Federated Learning?,
        arXiv:1911.07963, norm thresholding of updates.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.NORM})

    longest: float = option(1.0, "no task vector has a larger Euclidean norm", above=0)

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """The same direction, no longer than allowed."""
        if facts.norm is None:
            raise missing(facts, name, Need.NORM)
        if not math.isfinite(facts.norm):
            # Scaled by nothing it would silently be left out.
            raise NonFinite(
                f"{facts.contribution}, tensor {name!r}: its norm over the model is"
                f" {facts.norm}, expected a finite number"
            )
        if facts.norm <= self.longest:
            return block.clone()
        return block * (self.longest / facts.norm)
