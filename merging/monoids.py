"""What a fold's state is made of: commutative monoids over tensors.

A field embeds an addend into the monoid (`element`), combines, and, where it is a
group, subtracts. What a merge promises about order (any order of contributions, any
grouping, the same bytes) and about removal (the bytes from before) is proved for each
field, and not for each method.

The fields themselves: `Sum` and `Count` in `sums.py`, `Max` and `Min` in `extremes.py`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from weft.merging.errors import CannotMerge

Shape: TypeAlias = tuple[int, ...]
Extent: TypeAlias = Callable[[Shape], Shape]


def per_element(shape: Shape) -> Shape:
    """One value for each element of the block."""
    return shape


def scalar(shape: Shape) -> Shape:
    """One value for the whole block, such as a sum of weights.

    Its addends may depend on facts only, never on the block: a tensor is folded in
    blocks, and each block must end with the same scalar.
    """
    return ()


@dataclass(slots=True)
class Cell:
    """A value of one field: the state of a fold, or one addend.

    `reach` is the sum over all addends of their largest magnitude, in units: no
    element is further from zero, so as long as it fits, none has overflowed. It is a
    sum itself, hence as free of order, and as removable, as the values.
    """

    values: Tensor
    reach: int = 0
    unsettled: int = 0
    """What a field still owes to the values; see `Field.settle`."""


class Field(ABC):
    """A commutative monoid over tensors: zero, element, combine, value.

    `extent` gives the shape of the state from the shape of the block. A field with
    `removable` is a group: `subtract` undoes `combine`, byte for byte.
    """

    __slots__ = ()

    removable: ClassVar[bool]
    extent: Extent

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the state."""

    @abstractmethod
    def plain(self, dtype: torch.dtype) -> "Field":
        """The approximate twin of this field, of floats of that dtype."""

    def add(self, cell: Cell, addend: Tensor, where: str) -> None:
        """Combine one addend into a state that nobody else needs any more.

        As `combine(cell, element(addend))`, faster where a field can; after an error
        the cell is spoiled.
        """
        self.combine(cell, self.element(addend, where), where)

    @abstractmethod
    def element(self, addend: Tensor, where: str) -> Cell:
        """The addend as a value of the monoid; the addend is not modified.

        Args:
            addend: of the shape that `extent` gives.
            where: contribution and tensor, for messages.

        Raises:
            NonFinite: a NaN or an infinity.
            OutOfBound: a value that the field does not hold.
        """

    @abstractmethod
    def zero(self, shape: Shape) -> Cell:
        """The neutral value for a block of that shape."""

    @abstractmethod
    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        """Add `other` into `cell`; either all of it, or an error and nothing."""

    def settle(self, cell: Cell) -> None:  # noqa: B027  (most fields owe nothing)
        """Bring a cell that `add` has changed into the form that all others read."""

    @abstractmethod
    def subtract(self, cell: Cell, other: Cell, where: str) -> None:
        """Take `other` out of `cell` again.

        Raises:
            NotRemovable: this field cannot, or `other` was never in.
        """

    @abstractmethod
    def value(self, cell: Cell) -> Tensor:
        """What the cell stands for, float64, a new tensor."""

    def require_room(self, cell: Cell, other: Cell, where: str) -> None:
        """Raise what `combine` would raise, and change nothing."""
        require_same_shape(cell, other, where)

    @abstractmethod
    def require_member(self, cell: Cell, other: Cell, where: str) -> None:
        """Raise what `subtract` would raise, and change nothing."""

    def state_shape(self, shape: Shape) -> Shape:
        """Shape of the stored tensor for a block of that shape."""
        return self.extent(shape)

    def state_bytes(self, shape: Shape) -> int:
        """Bytes of the stored tensor for a block of that shape."""
        return math.prod(self.state_shape(shape)) * self.dtype.itemsize


def require_same_shape(cell: Cell, other: Cell, where: str) -> None:
    """Two cells fit each other; broadcasting would silently fold the wrong thing.

    Raises:
        CannotMerge: they differ in shape.
    """
    if cell.values.shape != other.values.shape:
        raise CannotMerge(
            f"{where}: shape {tuple(other.values.shape)} does not fit a state of shape"
            f" {tuple(cell.values.shape)}"
        )


def first_marked(values: Tensor, marks: Tensor) -> float:
    """The first value that is marked."""
    return float(values[marks].flatten()[0].item())
