"""The trimmed mean: without the largest and the smallest, element by element."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Joint
from weft.merging.order_statistics import mean_of_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean(Joint):
    """The mean of what is left without the k largest and the k smallest values.

    k is `count`, or `share` of the number of contributions rounded down. While at most k
    are hostile, each element lies between the smallest and the largest honest value.
    Weights say who takes part and nothing else.

    Attributes:
        share: of the contributions, on each side. With 0.2, fewer than five are not
            trimmed at all: give a count where there are few.
        count: how many on each side, in place of the share. 0: go by the share.

    Source: Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal
        Statistical Rates, arXiv:1803.01498, definition 2, where beta m is a whole number.
    """

    cpu_only: ClassVar[bool] = True
    proportional: ClassVar[bool] = True
    share: float = option(0.2, "left out on each side, of all", least=0, below=0.5)
    count: int = option(0, "left out on each side; 0: by the share", least=0)

    @property
    def gives_back_one(self) -> bool:
        """Of one nothing is left out, unless so many were to be."""
        return self.count == 0

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        """The mean of the middle ranks."""
        require_finite(name, blocks, facts)
        trim = self._trim(name, len(blocks))
        return mean_of_ranks(blocks, range(trim, len(blocks) - trim))

    def _trim(self, name: str, models: int) -> int:
        # A share such as 0.29 of 100 is 28.999..., and means 29.
        trim = self.count or int(self.share * models + 1e-9)
        if 2 * trim >= models:
            raise CannotMerge(
                f"tensor {name!r}: without {trim} on each side nothing is left of"
                f" {models} contributions; expected at least {2 * trim + 1}"
            )
        return trim
