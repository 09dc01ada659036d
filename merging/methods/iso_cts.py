"""Iso-CTS: what all share and what each has alone, all directions alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.consensus import total_weight
from weft.merging.hyperparameters import option
from weft.merging.linear_joint import LinearJoint
from weft.merging.matrices import tables_option
from weft.merging.method import Facts
from weft.merging.spectra import RANK_TOLERANCE, polar, thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoCts(LinearJoint):
    """scale * mean(s) polar(U) polar(V)^T for linear weights.

    U, s, V hold the c leading singular triplets of sum_i w_i D_i, the common space with
    left vectors U_c, and of each contribution the k leading ones of
    (I - U_c U_c^T) w_i D_i. Of the r = min(out, in) directions, r - c = n k are the
    contributions', with k the whole number for which c is nearest to `common` * r.
    Weights scale task vectors and are first brought to a mean of one; a negative one
    unlearns, but their sum must be positive. Tensors that are not linear weights are
    averaged by weight.

    Attributes:
        common: share of the common space; 1 is Iso-C, up to where k rounds to zero.
        scale: lambda; the authors tune it between 1.0 and 1.5.
        rank_tolerance: directions whose singular value is below this share of the
            largest one are left out, and a contribution's own below this share of its
            norm; see `IsoC`.
        tables: which tensors are no linear weights.

    Source: Marczak et al. 2025, No task left behind, arXiv:2502.04959, Iso-CTS, and their
        released `iso.py`, which fills up with directions of the null space where a sum or
        a remainder has less rank; ours leaves them out, of the mean too. The weights are
        ours.
    """

    proportional: ClassVar[bool] = True

    common: float = option(0.8, "share of directions that are those of the sum", least=0, most=1)
    scale: float = option(1.0, "lambda, the factor of the result")
    rank_tolerance: float = option(
        RANK_TOLERANCE, "share of the largest singular value that counts as zero", least=0, below=1
    )
    tables: str = tables_option()

    def merge_linear(self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> Tensor:
        """Find the common space, then each one's own, then put them together."""
        mean = total_weight(name, facts) / len(facts)
        weights = [fact.weight / mean for fact in facts]
        total = torch.zeros_like(blocks[0], dtype=torch.float64)
        for block, weight in zip(blocks, weights, strict=True):
            total.add_(block, alpha=weight)
        shared, each = _sizes(min(total.shape), len(blocks), self.common)
        left, values, right = thin_svd(total, self.rank_tolerance)
        own = [
            self._own(block.to(torch.float64) * weight, left, shared, each)
            for block, weight in zip(blocks, weights, strict=True)
        ]
        level = torch.cat([values[:shared], *(part[1] for part in own)])
        if len(level) == 0:
            return torch.zeros_like(blocks[0])
        lefts = torch.cat([part[0] for part in own], dim=1)
        rights = torch.cat([part[2] for part in own])
        merged = _joined(left[:, :shared], right[:shared], lefts, rights)
        return merged * (float(level.mean()) * self.scale)

    def _own(
        self, delta: Tensor, left: Tensor, shared: int, each: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The leading singular triplets of what the common space does not hold of one.

        Args:
            delta: (out, in).
            left: left singular vectors of the sum, (out, r).
            shared: how many of these span the common space.
            each: how many triplets are wanted.
        """
        if left.shape[1] == left.shape[0]:
            # The others span all the rest: in their coordinates the matrix is small.
            outside = left[:, shared:]
            inner, values, right = thin_svd(outside.T @ delta, self.rank_tolerance, each)
            vectors = outside @ inner
        else:
            space = left[:, :shared]
            rest = delta - space @ (space.T @ delta)
            vectors, values, right = thin_svd(rest, self.rank_tolerance, each)
        kept = int((values > self.rank_tolerance * float(delta.norm())).sum())
        return vectors[:, :kept], values[:kept], right[:kept]


def _sizes(directions: int, count: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many each contribution's own."""
    wanted = directions - int(directions * common)
    each = min(round(wanted / count), directions // count)
    return directions - count * each, each


def _joined(left: Tensor, right: Tensor, own_left: Tensor, own_right: Tensor) -> Tensor:
    """polar([own_left, left]) polar([own_right; right]), (out, in).

    Args:
        left: (out, c), orthonormal columns.
        right: (c, in), orthonormal rows.
        own_left: (out, t), columns orthogonal to those of `left`.
        own_right: (t, in).
    """
    # On the left the two are orthogonal, so `left` stays. On the right only as many
    # directions of `right` turn as overlap with `own_right`: those of Q^T right, at most
    # t of them. So both polar factors are of small matrices.
    turning, _ = torch.linalg.qr(right @ own_right.T)
    touched = turning.T @ right
    together = polar(torch.cat([own_right, touched]))
    count = len(own_right)
    turned = right + turning @ (together[count:] - touched)
    joined: Tensor = polar(own_left) @ together[:count] + left @ turned
    return joined
