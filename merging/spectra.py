"""Singular value decompositions by way of the Gram matrix of the smaller side.

In float64 that is faster than a decomposition of the matrix itself. Squaring costs half
of the digits: a direction whose singular value is a share q of the largest comes out with
an error of about 1e-16 / q^2. So only directions down to a thousandth of the largest are
taken from one Gram matrix. The matrix is then projected onto what is orthogonal to them
on both sides, which leaves the small directions alone at full precision, and so on:
about ten digits of every vector, for a matrix of any condition. Usually a handful of
directions are left for the second round, and they are cheap.

What lies below the numerical rank is left out, so factors of a matrix of low rank are
thin.

>>> left, values, right = thin_svd(torch.diag(torch.tensor([3.0, 0.0, 2.0])))
>>> values.tolist()
[3.0, 2.0]
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

RANK_TOLERANCE: Final = 1e-7
"""Singular values below this share of the largest are taken for zero. Task vectors come
from float32 files or coarser ones: even a product of factors of low rank that was rounded
to float32 has values of about 1e-8 where it should have none."""

_SURE: Final = 2.0**-10
"""Down to this share of the largest, singular vectors are taken from one Gram matrix."""

_STRIPED: Final = 256
"""From this side on, a Gram matrix is made in strips, without most of its upper half."""

_STRIPS: Final = 4


def thin_svd(
    matrix: Tensor, tolerance: float = RANK_TOLERANCE, most: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V^T of a matrix, singular values falling, only those of its numerical rank.

    Args:
        matrix: (m, n), any float dtype, finite; not modified.
        tolerance: share of the largest singular value below which they are zero.
        most: how many leading ones are wanted; None: all.

    Returns:
        (m, r), (r,), (r, n), float64; r is zero for a matrix of zeros.
    """
    if matrix.shape[0] < matrix.shape[1]:
        left, values, right = thin_svd(matrix.T, tolerance, most)
        return right.T, values, left.T
    tall, unit = _scaled(matrix)
    parts = list(_rounds(tall, *_gram_eigen(tall), tolerance, most))
    left = torch.cat([part[0] for part in parts], dim=1)
    right = torch.cat([part[2] for part in parts], dim=1).T
    return left, torch.cat([part[1] for part in parts]) * unit, right


def right_svd(
    tall: Tensor, tolerance: float = RANK_TOLERANCE
) -> tuple[Tensor | None, Tensor, Tensor]:
    """U, s, V of a matrix as `thin_svd` finds them, without U where U = M V / s is as exact.

    That product is then the caller's to make, or to do without.

    Args:
        tall: (m, n), m >= n, float64, finite; not modified.
        tolerance: as of `thin_svd`.

    Returns:
        (m, r) or None, (r,) falling, (n, r).
    """
    scaled, unit = _scaled(tall)
    squares, vectors = _gram_eigen(scaled)
    if _all_sure(squares, tolerance):
        return None, squares.sqrt_() * unit, vectors
    parts = list(_rounds(scaled, squares, vectors, tolerance, None))
    left, values, right = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    return left, values * unit, right


def polar(matrix: Tensor, tolerance: float = RANK_TOLERANCE) -> Tensor:
    """U V^T: the nearest partial isometry, of the matrix's numerical rank; float64.

    Args:
        matrix: (m, n), any float dtype, finite; not modified.
        tolerance: as of `thin_svd`.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T, tolerance).T
    tall, _ = _scaled(matrix)
    squares, vectors = _gram_eigen(tall)
    if _all_sure(squares, tolerance):
        # Two products of the smaller side instead of U.
        return tall @ ((vectors / squares.sqrt()) @ vectors.T)
    parts = list(_rounds(tall, squares, vectors, tolerance, None))
    return torch.cat([part[0] for part in parts], 1) @ torch.cat([part[2] for part in parts], 1).T


def levelled(matrix: Tensor, tolerance: float = RANK_TOLERANCE) -> Tensor:
    """mean(s) U V^T: all singular values alike, their sum as it was; float64.

    The mean is over the numerical rank.

    Args:
        matrix: (m, n), any float dtype, finite; not modified.
        tolerance: as of `thin_svd`.
    """
    isometry = polar(matrix, tolerance)
    rank = round(float(isometry.square().sum()))
    total = float((isometry * matrix).sum())
    return isometry.mul_(total / max(rank, 1))


_Factors = tuple[Tensor, Tensor, Tensor]


def _rounds(
    tall: Tensor, squares: Tensor, vectors: Tensor, tolerance: float, most: int | None
) -> Iterator[_Factors]:
    """U (m, k), s (k,), V (n, k), from the largest singular values to the smallest.

    Args:
        tall: (m, n), m >= n.
        squares: eigenvalues of its Gram matrix, falling.
        vectors: and their vectors.
        tolerance: as of `thin_svd`.
        most: as of `thin_svd`.
    """
    wanted = len(squares) if most is None else min(most, len(squares))
    rest, basis, floor = tall, None, _root(squares) * tolerance
    while True:
        sure = (squares > squares[:1] * _SURE**2) & (squares > floor**2)
        count = min(int(sure.sum()), wanted)
        values = squares[:count].sqrt()
        left = rest @ (vectors[:, :count] / values)
        turned = vectors if basis is None else basis @ vectors
        yield left, values, turned[:, :count]
        wanted -= count
        if count == 0 or wanted == 0:
            return
        basis = turned[:, count:]
        rest = rest @ vectors[:, count:]
        rest -= left @ (left.T @ rest)
        if float(rest.norm()) <= floor:
            return
        squares, vectors = _gram_eigen(rest)


def _all_sure(squares: Tensor, tolerance: float) -> bool:
    """Whether all directions are there and can be taken from one Gram matrix."""
    return len(squares) > 0 and bool(squares[-1] > squares[0] * max(_SURE, tolerance) ** 2)


def _gram_eigen(tall: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the Gram matrix, falling and not below zero, and their vectors."""
    squares, vectors = torch.linalg.eigh(_lower_gram(tall))
    return squares.clamp_(min=0).flip(0), vectors.flip(1)


def _lower_gram(tall: Tensor) -> Tensor:
    """The Gram matrix on and below the diagonal, which is all that is looked at."""
    side = tall.shape[1]
    if side < _STRIPED:
        return tall.T @ tall
    gram = torch.zeros(side, side, dtype=tall.dtype, device=tall.device)
    step = -(-side // _STRIPS)
    for start in range(0, side, step):
        stop = min(start + step, side)
        torch.matmul(tall[:, start:].T, tall[:, start:stop], out=gram[start:, start:stop])
    return gram


def _root(squares: Tensor) -> float:
    return math.sqrt(float(squares[0])) if len(squares) > 0 else 0.0


def _scaled(matrix: Tensor) -> tuple[Tensor, float]:
    """The matrix in float64 over a power of two, so that no square over- or underflows."""
    wide = matrix.to(torch.float64)
    largest = float(wide.abs().max()) if wide.numel() > 0 else 0.0
    if 2.0**-100 < largest < 2.0**100 or largest == 0:
        return wide, 1.0
    unit = math.ldexp(1.0, math.frexp(largest)[1])
    return wide / unit, unit
