"""Multi-SLERP: the mean direction at the mean length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from weft.merging.method import Combination, Facts
from weft.merging.shares import shares
from weft.merging.spheres import OPPOSED, directions, on_lengths, resultant


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiSlerp(Combination):
    """(sum_i w_i |D_i|) a / |a| with a = sum_i w_i D_i / |D_i|, tensor by tensor.

    Weights are shares: positive, and divided by their sum. A zero vector has a length and
    no direction. Where the directions cancel out (|a| below 1e-6), the weighted mean.

    The sums of w D / |D|, w |D| and w are a state that could be folded in any order. The
    inner products are taken instead: a fold that sees a block at a time knows no |a|, and
    would have to hold whole tensors; this way |a| is that of the task vectors, not of sums
    that were rounded, and memory stays flat.

    Source: Goddard 2025, Multi-SLERP, in mergekit (arXiv:2403.13257): the tangent vectors
        that it averages sum to zero at the mean direction, so its formula is the one above.
        It refuses three or more that cancel out.
    """

    proportional: ClassVar[bool] = True

    @property
    def gives_back_one(self) -> bool:
        """Its own direction at its own length."""
        return True

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """w_i / |D_i| times mean length over |a|."""
        parts = shares(facts)
        if len(parts) == 1:
            return parts
        weights = np.array(parts)
        norms, cosines = directions(gram)
        length = resultant(cosines, weights)
        if length < OPPOSED:
            return parts
        return on_lengths(weights, norms, float(weights @ norms) / length)
