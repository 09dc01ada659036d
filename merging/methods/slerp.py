"""SLERP: from one model to another along the sphere instead of the chord."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.method import Combination, Facts
from weft.merging.spheres import directions

STRAIGHT: Final = 0.9995
"""Beyond this cosine, of either sign, arc and chord are one, or the arc is not unique."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slerp(Combination):
    """(sin((1 - t) a) D_1 + sin(t a) D_2) / sin(a), where a is the angle between them.

    Two contributions, in the order given; the angle is that of each tensor. Linear,
    (1 - t) D_1 + t D_2, where |cos a| exceeds 0.9995 or one of them is zero. Without a
    base, the weights themselves are interpolated, as is usual. Weights say who takes part
    and nothing else; one contribution is given back.

    Attributes:
        t: 0 is the first, 1 the second.

    Source: Shoemake 1985, Animating rotation with quaternion curves; for networks White
        2016, Sampling Generative Networks, arXiv:1609.04468, section 2.1. The limit of
        0.9995 is that of mergekit, which interpolates the weights and not task vectors.
    """

    ordered: ClassVar[bool] = True
    proportional: ClassVar[bool] = True
    most: ClassVar[int | None] = 2

    t: float = option(0.5, "where between the first (0) and the second (1)", least=0, most=1)

    @property
    def gives_back_one(self) -> bool:
        """There is nothing to interpolate with."""
        return True

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """The two sines."""
        if len(facts) == 1:
            return [1.0]
        if len(facts) > 2:
            raise CannotMerge(
                f"slerp: {len(facts)} contributions have a weight other than zero, it"
                " interpolates between two; multi_slerp takes any number"
            )
        norms, cosines = directions(gram)
        cosine = float(cosines[0, 1])
        if abs(cosine) > STRAIGHT or not norms.all():
            return [1.0 - self.t, self.t]
        angle = math.acos(cosine)
        return [math.sin(part * angle) / math.sin(angle) for part in (1.0 - self.t, self.t)]
