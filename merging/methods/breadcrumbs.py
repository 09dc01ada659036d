"""Model Breadcrumbs: neither the outliers nor the noise."""

from dataclasses import dataclass

from torch import Tensor

from weft.merging.errors import BadOption
from weft.merging.hyperparameters import option
from weft.merging.magnitudes import keep_above, keep_from
from weft.merging.method import Cut, Extent, Facts, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Breadcrumbs(Transform):
    """D' = D where |D| is in the middle of its ranks, else 0.

    Of n elements the floor(gamma n) largest are dropped, then the floor(density n)
    largest of the rest are kept, but at least one. What ties with the smallest or the
    largest that is kept is kept too, so a tensor whose elements all moved alike loses
    nothing.

    Attributes:
        density: share that is kept. The authors search 0.05 to 0.2; mergekit's guide
            has 0.9.
        gamma: share of outliers that is dropped; with the density at most one.
        extent: over what the ranks are taken: each tensor, or the whole model.

    Source: Davari and Belilovsky 2023, Model Breadcrumbs, arXiv:2312.06795, which masks
        layer by layer. Their code ranks along the last dimension, so within rows;
        mergekit, as we by default, within the tensor.
    """

    density: float = option(0.14, "share of the elements that is kept", above=0, most=1)
    gamma: float = option(0.01, "share of the largest, that is dropped", least=0, below=1)
    extent: str = option("tensor", "over what the ranks are taken", choices=("model", "tensor"))

    def check(self) -> None:
        """Nothing can be kept and dropped."""
        if self.density + self.gamma > 1 + 1e-9:  # 0.9 + 0.1 is not always 1
            raise BadOption(
                f"breadcrumbs: density {self.density:g} and gamma {self.gamma:g} are more than"
                " the whole, expected at most 1 together"
            )

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The smallest and the largest magnitude that are kept."""
        extent = Extent(self.extent)
        return (Cut(rank=self._first, extent=extent), Cut(rank=self._last, extent=extent))

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """What lies between the cuts, or on one."""
        smallest, largest = facts.cuts
        # A difference, as it makes a NaN of an infinite outlier, which is then refused.
        return keep_from(block, smallest).sub_(keep_above(block, largest))

    def _first(self, elements: int) -> int:
        kept = max(1, int(self.density * elements))
        return max(1, self._last(elements) - kept + 1)

    def _last(self, elements: int) -> int:
        return elements - int(self.gamma * elements)
