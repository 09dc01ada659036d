"""Fields of plain floats: approximate twins of the exact ones, for speed.

They do not look at what they add: whoever uses them checks inputs and result. A sum
depends on the order, and nothing can be removed.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.errors import NotRemovable
from weft.merging.monoids import Cell, Extent, Field, Shape, per_element, require_same_shape


@dataclass(frozen=True, slots=True)
class _Plain(Field):
    """Floats of one dtype under some operation."""

    removable: ClassVar[bool] = False
    neutral: ClassVar[float]

    floats: torch.dtype
    extent: Extent = per_element

    @property
    def dtype(self) -> torch.dtype:
        return self.floats

    def plain(self, dtype: torch.dtype) -> Field:
        return type(self)(dtype, self.extent)

    def zero(self, shape: Shape) -> Cell:
        return Cell(torch.full(self.state_shape(shape), self.neutral, dtype=self.dtype))

    def element(self, addend: Tensor, where: str) -> Cell:
        return Cell(addend.to(self.dtype))

    def require_member(self, cell: Cell, other: Cell, where: str) -> None:
        raise NotRemovable(
            f"{where}: an approximate sum cannot take a contribution back; use exact sums"
        )

    def subtract(self, cell: Cell, other: Cell, where: str) -> None:
        self.require_member(cell, other, where)

    def value(self, cell: Cell) -> Tensor:
        # Methods finish in place, and a state may be finished more than once.
        return cell.values.clone()


@dataclass(frozen=True, slots=True)
class PlainSum(_Plain):
    """A sum of floats, or of counts, in the order in which they come."""

    neutral: ClassVar[float] = 0.0

    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        """Add, element by element."""
        require_same_shape(cell, other, where)
        cell.values.add_(other.values)


@dataclass(frozen=True, slots=True)
class PlainMax(_Plain):
    """The largest addend."""

    neutral: ClassVar[float] = -math.inf

    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        """Keep the larger, element by element."""
        require_same_shape(cell, other, where)
        torch.maximum(cell.values, other.values, out=cell.values)


@dataclass(frozen=True, slots=True)
class PlainMin(_Plain):
    """The smallest addend."""

    neutral: ClassVar[float] = math.inf

    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        """Keep the smaller, element by element."""
        require_same_shape(cell, other, where)
        torch.minimum(cell.values, other.values, out=cell.values)
