"""LARV: a factor for each layer, by how structured its change is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.merging.errors import BadOption
from weft.merging.facts import missing
from weft.merging.hyperparameters import option
from weft.merging.layer_scores import layer_scales
from weft.merging.method import Facts, Layer, Need, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Larv(Transform):
    """D'_l = s_l D_l, with s_l one of low, 1, high by the rank of the layer's score.

    A layer's score is the mean of erank(theta_0) / erank(D) over its linear weights: a
    change of low effective rank is signal, one of high rank noise. The scores need the
    base and all layers at once, so they are found beforehand (`scales`), one
    contribution at a time, and come as facts. The third of the layers with the lowest
    scores gets `low`, the highest third `high`.

    Attributes:
        low: factor of the noisiest layers.
        high: factor of the richest layers.

    Source: Wang et al. 2026, LARV, arXiv:2602.09413. Only the abstract and a review of
        the paper were to be had: the effective rank contrast and three tiers are theirs,
        the ranking into thirds and the factors ours, and their second score, a level of
        conflict, is left out.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.SCALE})

    low: float = option(0.9, "factor of the layers whose change is mostly noise", least=0)
    high: float = option(1.1, "factor of the layers whose change has most structure", least=0)

    def check(self) -> None:
        """The lower tier gets the lower factor."""
        if self.low > self.high:
            raise BadOption(f"larv: low is {self.low:g}, expected at most high, {self.high:g}")

    def scales(
        self, contrasts: Mapping[str, float], layers: Mapping[str, Layer]
    ) -> dict[str, float]:
        """`Facts.scale` of each tensor; see `weft.merging.layer_scores.layer_scales`."""
        return layer_scales(contrasts, layers, (self.low, 1.0, self.high))

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """Times the factor of its layer."""
        if facts.scale is None:
            raise missing(facts, name, Need.SCALE)
        return block * facts.scale
