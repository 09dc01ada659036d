"""The larger and the smaller: fields that remember the extreme, and cannot forget."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.errors import NonFinite, NotRemovable
from weft.merging.monoids import (
    Cell,
    Extent,
    Field,
    Shape,
    first_marked,
    per_element,
)
from weft.merging.plain import PlainMax, PlainMin


class _Extreme(Field):
    """The larger, or the smaller, of two floats: a semilattice.

    Adding twice is adding once, so duplicates are harmless, and nothing can be removed.
    """

    __slots__ = ()

    removable: ClassVar[bool] = False
    neutral: ClassVar[float]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def zero(self, shape: Shape) -> Cell:
        return Cell(torch.full(self.state_shape(shape), self.neutral, dtype=self.dtype))

    def element(self, addend: Tensor, where: str) -> Cell:
        # Adding zero turns -0.0 into 0.0: which of the two zeros wins would otherwise
        # depend on the order.
        values = addend.to(torch.float64) + 0.0
        if values.numel() > 0 and not all(math.isfinite(end) for end in _ends(values)):
            value = first_marked(values, ~values.isfinite())
            raise NonFinite(f"{where}: {value} found, expected finite numbers")
        return Cell(values)

    def require_member(self, cell: Cell, other: Cell, where: str) -> None:
        raise NotRemovable(
            f"{where}: a fold of extremes cannot take a contribution back; fold the others anew"
        )

    def subtract(self, cell: Cell, other: Cell, where: str) -> None:
        self.require_member(cell, other, where)

    def value(self, cell: Cell) -> Tensor:
        return cell.values.clone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Max(_Extreme):
    """The largest addend; minus infinity where there was none."""

    neutral: ClassVar[float] = -math.inf

    extent: Extent = per_element

    def plain(self, dtype: torch.dtype) -> Field:
        """The same without checks."""
        return PlainMax(dtype, self.extent)

    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        """Keep the larger, element by element."""
        self.require_room(cell, other, where)
        torch.maximum(cell.values, other.values, out=cell.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Min(_Extreme):
    """The smallest addend; plus infinity where there was none."""

    neutral: ClassVar[float] = math.inf

    extent: Extent = per_element

    def plain(self, dtype: torch.dtype) -> Field:
        """The same without checks."""
        return PlainMin(dtype, self.extent)

    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        """Keep the smaller, element by element."""
        self.require_room(cell, other, where)
        torch.minimum(cell.values, other.values, out=cell.values)


def _ends(values: Tensor) -> tuple[float, float]:
    """Smallest and largest value in one pass; NaN if there is one."""
    low, high = torch.aminmax(values)
    return low.item(), high.item()
