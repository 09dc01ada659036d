"""DARE: drop a random share of a task vector, and scale up what is left."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from weft.merging.draws import STEPS, steps_of, uniform16
from weft.merging.facts import missing
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Need, Scope, Transform
from weft.merging.monoids import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Dare(Transform):
    """D' = f * m D, with m = 1 for a random share `density` of the elements, else 0.

    Each element is drawn for itself, by the contribution's key, the tensor's name and
    its place, so every node drops the same ones, however it cuts its blocks. What f is:

        exact    1 / density: on average over all draws, D' is D
        l1       |D|_1 / |m D|_1 of the tensor: keeps its L1 norm, at every draw
        none     1

    The norm after the drop is known only once all of the tensor was drawn, so `l1` sees
    whole tensors; the other two see any block. An element that is not finite is never
    dropped unseen: it makes a NaN.

    Attributes:
        density: kept share, 1 - p. The authors keep 0.1 to 0.5 of the change of an
            instruction tuning; the larger the change, the more must be kept. Rounded to
            a multiple of 2^-16, and rescaled by what it was rounded to.
        rescale: see above.

    Source: Yu et al. 2024, Language Models are Super Mario, arXiv:2311.03099,
        drop and rescale: `exact`, with p = 1 - density. `l1` is what mergekit does by
        default.
    """

    cpu_only: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.KEY})

    density: float = option(0.5, "share of the elements that is kept", above=0, most=1)
    rescale: str = option("exact", "what is kept, times what", choices=("exact", "l1", "none"))

    def scope(self, name: str, shape: Shape) -> Scope:
        """Whole tensors only where a norm of one is kept."""
        return Scope.MATRIX if self.rescale == "l1" else Scope.ELEMENT

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """What is kept, scaled."""
        if not facts.key:
            raise missing(facts, name, Need.KEY)
        steps = steps_of(self.density)
        if steps == STEPS:
            return block.clone()
        draws = uniform16(facts.key, name, facts.offset, block.numel())
        kept = torch.empty(block.shape, dtype=block.dtype)
        # Several times as fast as a product with a mask in torch.
        with np.errstate(invalid="ignore"):
            np.multiply(block.numpy(), (draws < steps).reshape(block.shape), out=kept.numpy())
        return kept.mul_(self._factor(block, kept, steps))

    def _factor(self, block: Tensor, kept: Tensor, steps: int) -> float:
        if self.rescale == "exact":
            return STEPS / steps
        after = _l1(kept) if self.rescale == "l1" else 0.0
        return _l1(block) / after if after > 0 else 1.0


def _l1(block: Tensor) -> float:
    return float(block.abs().sum(dtype=torch.float64))
