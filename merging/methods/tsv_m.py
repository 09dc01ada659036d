"""TSV-M: the leading singular triplets of every task vector, made orthogonal together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.consensus import total_weight
from weft.merging.hyperparameters import option
from weft.merging.linear_joint import LinearJoint
from weft.merging.matrices import tables_option
from weft.merging.method import Facts
from weft.merging.spectra import polar, thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class TsvM(LinearJoint):
    """scale * polar([U_1 .. U_n]) diag(s) polar([V_1 .. V_n])^T for linear weights.

    U_i, s_i, V_i are the k leading singular triplets of D_i, (out, in), with
    k = min(out, in) / n rounded down, at least one, and s is all s_i. The polar factor is
    the nearest matrix with orthonormal columns, so directions of different contributions
    get out of each other's way. Weights scale task vectors and are first brought to a
    mean of one; a negative one unlearns, but their sum must be positive. Tensors that are
    not linear weights are averaged by weight.

    Attributes:
        budget: n_max, for how many contributions there is to be room, so that the share
            of each does not depend on how many come; zero: for those that are there.
        scale: factor of the result; alpha in the authors' code.
        tables: which tensors are no linear weights.

    Source: Gargiulo et al. 2025, Task singular vectors, arXiv:2412.00081, TSV-Merge, and
        their released `TSVM_utils.py`. Where contributions share directions exactly, a
        polar factor is not unique; ours is the one of the numerical rank. With more
        contributions than min(out, in) theirs keeps nothing, ours one triplet of each.
        Weights as in FusionBench, whose `alpha` may be a list; `budget` is ours.
    """

    proportional: ClassVar[bool] = True

    budget: int = option(0, "n_max, room for so many contributions; 0: those there", least=0)
    scale: float = option(1.0, "factor of the result")
    tables: str = tables_option()

    @property
    def gives_back_one(self) -> bool:
        """The one has all the room; only unscaled."""
        return self.scale == 1 and self.budget <= 1

    def merge_linear(self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> Tensor:
        """Decompose each, put the leading parts together."""
        mean = total_weight(name, facts) / len(facts)
        if len(blocks) == 1 and self.gives_back_one:
            return blocks[0].clone()
        weights = [fact.weight / mean for fact in facts]
        return orthogonal_sum(self.prepared(blocks), weights, self.kept(blocks)) * self.scale

    def prepared(self, blocks: Sequence[Tensor]) -> Iterable[Tensor]:
        """The task vectors as they are decomposed: as they are."""
        return blocks

    def kept(self, blocks: Sequence[Tensor]) -> int:
        """How many triplets of each."""
        return max(1, min(blocks[0].shape) // (self.budget or len(blocks)))


def orthogonal_sum(deltas: Iterable[Tensor], weights: Sequence[float], kept: int) -> Tensor:
    """The sum of the leading parts of weighted task vectors, after making them orthogonal.

    Args:
        deltas: (out, in) each, looked at one at a time; not modified.
        weights: one for each; a negative one turns its task vector over.
        kept: how many singular triplets of each, fewer where its rank is lower.

    Returns:
        (out, in), float64.
    """
    parts = [thin_svd(delta, most=kept) for delta in deltas]
    left = polar(torch.cat([part[0] for part in parts], dim=1))
    right = polar(torch.cat([part[2] for part in parts]))
    values = [part[1] * weight for part, weight in zip(parts, weights, strict=True)]
    return (left * torch.cat(values)) @ right
