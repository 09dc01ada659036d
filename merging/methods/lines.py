"""LiNeS: a factor that grows with depth."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.facts import missing
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Layer, Need, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Transform):
    """D'_l = (alpha + beta l / (L - 1)) D_l for block l = 0 .. L - 1 of a model.

    Early blocks, which hold what all tasks share, are changed less. Tensors outside all
    blocks (embeddings, heads, final norms) get alpha, as does the only block of a model
    that has one.

    On one finetuned model, beta = 1 - alpha leaves the last block as it is; the
    defaults do that. On the sum or mean M of n task vectors, the authors take
    alpha = |sum_i D_i|_1 / (n |M|_1), with L1 norms over the whole model, and search
    beta as they would search the scale of the merge.

    Attributes:
        alpha: the factor of the first block.
        beta: what the last block gets on top of it.

    Source: Wang et al. 2025, LiNeS, arXiv:2410.17146, equation of the layer scaling;
        embeddings and heads as in the authors' code.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LAYER})

    alpha: float = option(0.5, "factor of the first block")
    beta: float = option(0.5, "what the factor of the last block is larger by")

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """Scaled by depth."""
        if facts.layer is None:
            raise missing(facts, name, Need.LAYER)
        return block * self.factor(facts.layer)

    def factor(self, layer: Layer) -> float:
        """Of all tensors at that depth."""
        if layer.index is None or layer.count < 2:
            return self.alpha
        return self.alpha + self.beta * (layer.index / (layer.count - 1))
