"""Trim: keep what moved furthest."""

from dataclasses import dataclass

from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.magnitudes import keep_from
from weft.merging.method import Cut, Extent, Facts, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim(Transform):
    """D' = D where |D| is among the largest, else 0.

    Of n elements the floor(density n) largest are kept, but at least one, and all those
    that tie with the last of them.

    Attributes:
        density: share that is kept.
        extent: over what the ranks are taken: the whole model, so that layers that
            moved little lose most, or each tensor for itself.

    Source: Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, section 4, step 1, over
        the model and with 0.2 as there. mergekit trims each tensor.
    """

    density: float = option(0.2, "share of the elements that is kept", above=0, most=1)
    extent: str = option("model", "over what the ranks are taken", choices=("model", "tensor"))

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The smallest magnitude that is kept; none is asked for where all are."""
        if self.density == 1:
            return ()
        return (Cut(rank=self._rank, extent=Extent(self.extent)),)

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """What lies at the cut or above it."""
        return keep_from(block, facts.cuts[0]) if self.cuts else block.clone()

    def _rank(self, elements: int) -> int:
        return elements - max(1, int(self.density * elements)) + 1
