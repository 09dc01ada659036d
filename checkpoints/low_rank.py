"""Any range of a product of two thin matrices, without the product.

>>> factors = Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5)
>>> product(factors, 1, 3).tolist()
[2.0, 3.0]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

PIECE_ELEMENTS: Final = 2**16
"""Summed up at a time: fits a core's cache in float64."""


@dataclass(frozen=True, slots=True)
class Factors:
    """A matrix as scale * left right.

    Attributes:
        left: (rows, rank), floating, contiguous.
        right: (rank, columns), floating, contiguous.
        scale: finite.
    """

    left: Tensor
    right: Tensor
    scale: float


def product(factors: Factors, start: int, stop: int) -> Tensor:
    """Elements `start` to `stop` of the matrix, row by row: float64, flat.

    Each element is the sum of its terms over the rank, one after the other: a matrix
    product from a library would be faster, and other bits for other ranges.

    Memory: the range, and twice `PIECE_ELEMENTS` in float64.
    """
    out = torch.empty(stop - start, dtype=torch.float64)
    columns = factors.right.shape[1]
    for first, last in _pieces(start, stop, columns):
        row, column = divmod(first, columns)
        rows = max((last - first) // columns, 1)
        width = min(last - first, columns)
        left = factors.left[row : row + rows].to(torch.float64)
        right = factors.right[:, column : column + width].to(torch.float64)
        _sum_terms(left, right, out[first - start : last - start].view(rows, width))
    return out.mul_(factors.scale)


def _sum_terms(left: Tensor, right: Tensor, out: Tensor) -> None:
    out.zero_()
    term = torch.empty_like(out)
    for index in range(left.shape[1]):
        torch.mul(left[:, index : index + 1], right[index : index + 1], out=term)
        out.add_(term)


def _pieces(start: int, stop: int, columns: int) -> Iterator[tuple[int, int]]:
    """Cut a range into parts of one row and blocks of whole rows."""
    block = max(PIECE_ELEMENTS // columns, 1) * columns if columns else 1
    while start < stop:
        if start % columns or stop - start < columns or columns > PIECE_ELEMENTS:
            row_end = start - start % columns + columns
            last = min(row_end, stop, start + PIECE_ELEMENTS)
        else:
            last = start + min(block, (stop - start) // columns * columns)
        yield start, last
        start = last
