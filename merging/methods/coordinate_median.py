"""The coordinate-wise median."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.method import Facts, Joint
from weft.merging.order_statistics import mean_of_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateMedian(Joint):
    """The middle value, element by element; of an even number the mean of the middle two.

    While fewer than half are hostile, each element lies between the smallest and the
    largest honest value. Weights say who takes part and nothing else.

    Source: Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal
        Statistical Rates, arXiv:1803.01498, definition 1.
    """

    cpu_only: ClassVar[bool] = True
    proportional: ClassVar[bool] = True

    @property
    def gives_back_one(self) -> bool:
        """It is in the middle."""
        return True

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        """The rank in the middle, or two of them."""
        require_finite(name, blocks, facts)
        low, high = (len(blocks) - 1) // 2, len(blocks) // 2
        return mean_of_ranks(blocks, range(low, high + 1))
