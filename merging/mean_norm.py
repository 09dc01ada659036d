"""Bringing the merged task vector of a whole model to the mean norm of the task vectors.

What a sequential method that `keeps_mean_norm` leaves to whoever merges:

    D <- D * mean_i |w_i D_i| / |D|

with Euclidean norms over all parameters. A stream needs to keep the number of the
contributions and the sum of their norms.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.errors import NonFinite
from weft.merging.facts import missing
from weft.merging.method import Facts, Need, Transform


def mean_norm(norms: Iterable[float]) -> float:
    """The mean of the norms of the weighted task vectors, in any order; zero of none."""
    found = list(norms)
    return math.fsum(found) / max(len(found), 1)


def factor_to(norm: float, found: float, where: str) -> float:
    """What brings a task vector of norm `found` to `norm`; one where it has no direction.

    Args:
        norm: wanted.
        found: of the task vector, over the whole model.
        where: whose it is, for the message.

    Raises:
        NonFinite: one of the two is not finite, or their quotient.
    """
    factor = norm / found if found != 0 else 1.0
    if not (math.isfinite(found) and math.isfinite(factor)):
        raise NonFinite(
            f"{where}: its norm over the model is {found}, to be brought to {norm}; expected"
            " finite numbers"
        )
    return factor


@dataclass(frozen=True, slots=True, kw_only=True)
class ToNorm(Transform):
    """D' = D norm / |D|, with the Euclidean norm over the whole model; zero stays zero.

    A step of the engine's own, so in no table.

    Attributes:
        norm: that of the result.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.NORM})

    norm: float

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """The same direction, at that norm."""
        if facts.norm is None:
            raise missing(facts, name, Need.NORM)
        return block * factor_to(self.norm, facts.norm, facts.contribution)
