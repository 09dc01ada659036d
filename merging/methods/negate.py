"""Negate: the opposite change."""

from dataclasses import dataclass

from torch import Tensor

from weft.merging.method import Facts, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Negate(Transform):
    """D' = -D: what was learned is unlearned.

    Source: Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089,
        section 3, forgetting by negation.
    """

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """The negative."""
        return -block
