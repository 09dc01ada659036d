"""Task vectors of low rank, kept as two thin factors: what adapters (LoRA) are.

An adapter's update of a linear weight is D = B A with B (out, r) and A (r, in); whatever
scale the adapter had (alpha / r) is folded into B. Sums of such updates are exact by
concatenation, and the best approximation of lower rank needs no matrix larger than the
factors themselves. Nothing here knows of files.

>>> one = LowRank(torch.tensor([[2.0], [0.0]]).double(), torch.tensor([[1.0, 3.0]]).double())
>>> concatenated([one, one], [1.0, 0.5]).dense().tolist()
[[3.0, 9.0], [0.0, 0.0]]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.merging.errors import BadOption, CannotMerge
from weft.merging.monoids import Shape
from weft.merging.spectra import thin_svd


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """D = B A, float64.

    Attributes:
        B: (out, r).
        A: (r, in).
    """

    B: Tensor
    A: Tensor

    def __post_init__(self) -> None:
        fits = self.B.ndim == self.A.ndim == 2 and self.B.shape[1] == self.A.shape[0]
        if not fits or {self.B.dtype, self.A.dtype} != {torch.float64}:
            raise CannotMerge(
                f"factors B {tuple(self.B.shape)} of {self.B.dtype} and A {tuple(self.A.shape)}"
                f" of {self.A.dtype}, expected (out, r) and (r, in) of float64"
            )

    @property
    def rank(self) -> int:
        """How many columns B has; the rank of the product is at most that."""
        return self.B.shape[1]

    @property
    def shape(self) -> Shape:
        """Of the product, (out, in)."""
        return (self.B.shape[0], self.A.shape[1])

    def dense(self) -> Tensor:
        """The product, (out, in), float64."""
        return self.B @ self.A


def concatenated(parts: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """sum_i w_i D_i, by putting the factors side by side: [w_i B_i] and [A_i].

    Args:
        parts: at least one, all of one shape; not modified.
        weights: one for each.

    Returns:
        Of a rank that is the sum of all ranks.

    Raises:
        CannotMerge: no parts, or their shapes differ.
    """
    require_one_shape(parts)
    columns = [part.B * weight for part, weight in zip(parts, weights, strict=True)]
    return LowRank(torch.cat(columns, dim=1), torch.cat([part.A for part in parts]))


def truncated(low_rank: LowRank, rank: int) -> LowRank:
    """The best approximation of at most that rank, in the Frobenius and spectral norms.

    B = Q_B R_B and A^T = Q_A R_A, so the singular values of the product are those of the
    small core R_B R_A^T, (r, r).

    Args:
        low_rank: not modified.
        rank: at least zero.

    Returns:
        Balanced, as `from_dense` gives it.
    """
    _require_rank(rank)
    if low_rank.rank >= min(low_rank.shape):
        # The core would be as large as the matrix itself.
        return from_dense(low_rank.dense(), rank)
    left, left_core = torch.linalg.qr(low_rank.B)
    right, right_core = torch.linalg.qr(low_rank.A.T)
    # Not by way of the Gram matrix: the core is small, so full precision costs nothing.
    inner, values, outer = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept = min(rank, _significant(values))
    return _balanced(left @ inner[:, :kept], values[:kept], outer[:kept] @ right.T)


def from_dense(matrix: Tensor, rank: int | None = None) -> LowRank:
    """The factors of a matrix, of its numerical rank, or of a lower one.

    Args:
        matrix: (out, in), any float dtype; not modified.
        rank: the highest wanted; None: whatever the matrix has.

    Returns:
        Balanced: U sqrt(s) and sqrt(s) V^T, so each column of B is as long as the row
        of A that it goes with.
    """
    return _balanced(*thin_svd(matrix, most=None if rank is None else _require_rank(rank)))


def norm(low_rank: LowRank) -> float:
    """The Frobenius norm of the product, by way of its small core."""
    left = torch.linalg.qr(low_rank.B, mode="r").R
    right = torch.linalg.qr(low_rank.A.T, mode="r").R
    return float((left @ right.T).norm())


def require_one_shape(parts: Sequence[LowRank]) -> None:
    """There are factors, and their products fit each other.

    Raises:
        CannotMerge: no factors, or their shapes differ.
    """
    if not parts:
        raise CannotMerge("no factors to merge, expected at least one")
    odd = next((part for part in parts if part.shape != parts[0].shape), None)
    if odd is not None:
        raise CannotMerge(f"factors of shape {odd.shape} do not fit those of {parts[0].shape}")


def _balanced(left: Tensor, values: Tensor, right: Tensor) -> LowRank:
    roots = values.sqrt()
    return LowRank(left * roots, roots.unsqueeze(1) * right)


def _significant(values: Tensor) -> int:
    """How many singular values are more than rounding errors."""
    if len(values) == 0:
        return 0
    noise = values[0] * len(values) * torch.finfo(values.dtype).eps
    return int((values > noise).sum())


def _require_rank(rank: int) -> int:
    if rank < 0:
        raise BadOption(f"rank is {rank}, expected a whole number at least 0")
    return rank
