"""Exact sums: integers, which add in any order.

An addend of a `Sum` is rounded once to a multiple of a fixed unit, and multiples of a
unit are integers. The rounding is one addition: with C = 1.5 * 2^52 * unit, all C + x
for |x| <= 2^51 * unit lie where doubles are `unit` apart, so the processor's own
rounding (to nearest, ties to even) lands on the grid, and the difference of the bit
patterns of C + x and of C *is* the integer.

>>> total = Sum()
>>> cell = total.zero((2,))
>>> total.combine(cell, total.element(torch.tensor([0.5, -2.0]), "here"), "here")
>>> total.value(cell).tolist()
[0.5, -2.0]
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from weft.merging.errors import BadOption, FoldFull, NonFinite, NotRemovable, OutOfBound
from weft.merging.hyperparameters import require_bound
from weft.merging.monoids import (
    Cell,
    Extent,
    Field,
    Shape,
    first_marked,
    per_element,
    require_same_shape,
)
from weft.merging.plain import PlainSum

# An addend fills at most 2^51 units of its first limb; what that leaves over, at most
# half a unit, fills 2^39 units of the next. So 2^24 addends fit a limb below the first.
_FIRST_LIMB_BITS = 51
_LIMB_BITS = 40


class _Integers(Field):
    """Integers under addition: a group, exact as long as nothing overflows."""

    __slots__ = ()

    removable: ClassVar[bool] = True

    def zero(self, shape: Shape) -> Cell:
        return Cell(torch.zeros(self.state_shape(shape), dtype=self.dtype))

    def require_room(self, cell: Cell, other: Cell, where: str) -> None:
        require_same_shape(cell, other, where)
        limit = torch.iinfo(self.dtype).max
        if cell.reach + other.reach > limit:
            raise FoldFull(
                f"{where}: adding it could overflow the exact sum ({cell.reach} of {limit} units"
                f" are taken, it needs {other.reach}); give smaller weights"
            )

    def combine(self, cell: Cell, other: Cell, where: str) -> None:
        self.require_room(cell, other, where)
        cell.values.add_(other.values)
        cell.reach += other.reach

    def require_member(self, cell: Cell, other: Cell, where: str) -> None:
        require_same_shape(cell, other, where)
        if other.reach > cell.reach:
            raise NotRemovable(f"{where}: it was never added to this state, or not as it is now")

    def subtract(self, cell: Cell, other: Cell, where: str) -> None:
        self.require_member(cell, other, where)
        cell.values.sub_(other.values)
        cell.reach -= other.reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(_Integers):
    """The exact sum of float64 addends, on a fixed grid of int64 counts.

    An addend is rounded once, to nearest, to a multiple of the unit. From there on
    nothing is rounded: order and grouping leave no trace, and removing a contribution
    leaves the bytes that were there before it.

    Attributes:
        bound: the largest magnitude of an addend, a power of two. It is chosen from
            what a tensor is, never from the contributions at hand: all nodes must
            round alike. The unit is bound * 2^-51 (2^-39, or 1.8e-12, by default),
            and at least 4095 addends as large as the bound fit.
        limbs: with two, what the first rounding leaves over is kept on a second grid,
            2^40 times as fine. For small tensors of wide range (sums of moments).
        extent: the shape of the state, from the shape of the block.
    """

    bound: float = 2.0**12
    limbs: int = 1
    extent: Extent = per_element

    def __post_init__(self) -> None:
        require_bound(self, "bound")
        if self.limbs not in (1, 2, 3):
            raise BadOption(f"Sum: limbs is {self.limbs!r}, expected 1, 2 or 3")

    @property
    def dtype(self) -> torch.dtype:
        """Integers of 64 bits."""
        return torch.int64

    def plain(self, dtype: torch.dtype) -> Field:
        """A sum of floats."""
        return PlainSum(dtype, self.extent)

    def unit(self, limb: int = 0) -> float:
        """What an integer one in this limb stands for."""
        return math.ldexp(1.0, self._exponent(limb))

    def element(self, addend: Tensor, where: str) -> Cell:
        """The addend rounded to the grid: one addition, one subtraction of integers."""
        rest = addend.to(torch.float64)
        limbs = []
        for limb in range(self.limbs):
            exponent = self._exponent(limb) + 52
            magic = math.ldexp(1.5, exponent)
            rounded = rest + magic
            if limb + 1 < self.limbs:
                rest = rest - (rounded - magic)
            limbs.append(rounded.view(torch.int64).sub_(_bits_of_magic(exponent)))
        # A value beyond the bound, an infinity and every NaN change the exponent bits
        # or the sign bit, and so give an integer beyond 2^51: one look is enough.
        reach = [_peak(counts) for counts in limbs]
        if reach[0] > 1 << _FIRST_LIMB_BITS:
            raise self._beyond(addend, where)
        values = limbs[0].unsqueeze(0) if self.limbs == 1 else torch.stack(limbs)
        return Cell(values, max(reach))

    def add(self, cell: Cell, addend: Tensor, where: str) -> None:
        """As `combine(cell, element(addend))`, in fewer passes over memory.

        What is rounded is checked as floats, between magic - bound and magic + bound,
        and numpy adds integers of 64 bits three times as fast as torch.
        """
        if addend.device.type != "cpu" or addend.numel() == 0:
            self.combine(cell, self.element(addend, where), where)
            return
        require_same_shape(cell, Cell(addend.expand(self.limbs, *addend.shape)), where)
        rest, reach = addend, 0
        for limb in range(self.limbs):
            exponent = self._exponent(limb) + 52
            magic = math.ldexp(1.5, exponent)
            rounded = rest + magic
            low, high = (end.item() for end in torch.aminmax(rounded))
            if not math.ldexp(1.0, exponent) <= low <= high <= math.ldexp(1.0, exponent + 1):
                raise self._beyond(addend, where)
            reach = max(reach, int(max(high - magic, magic - low) / self.unit(limb)))
            if cell.reach + reach > torch.iinfo(self.dtype).max:
                self.require_room(cell, self.element(addend, where), where)
            values = cell.values[limb].numpy()
            # The bits of magic come with each addend; `settle` takes them out, all at once.
            np.add(values, rounded.view(torch.int64).numpy(), out=values)
            if limb + 1 < self.limbs:
                rest = torch.sub(rest, rounded.sub_(magic), out=rounded)
        cell.unsettled += 1
        cell.reach += reach

    def settle(self, cell: Cell) -> None:
        """Take the bits of magic out that `add` left in; integers wrap, so none is lost."""
        for limb in range(self.limbs if cell.unsettled else 0):
            owed = cell.unsettled * _bits_of_magic(self._exponent(limb) + 52)
            wrapped = (owed + 2**63) % 2**64 - 2**63
            values = cell.values[limb].numpy()
            np.subtract(values, np.int64(wrapped), out=values)
        cell.unsettled = 0

    def value(self, cell: Cell) -> Tensor:
        """The sum, rounded once to float64 (once a limb)."""
        total = cell.values[-1].to(torch.float64).mul_(self.unit(self.limbs - 1))
        for limb in reversed(range(self.limbs - 1)):
            total.add_(cell.values[limb].to(torch.float64).mul_(self.unit(limb)))
        return total

    def state_shape(self, shape: Shape) -> Shape:
        """The limbs, coarse to fine, come first."""
        return (self.limbs, *self.extent(shape))

    def _exponent(self, limb: int) -> int:
        return math.frexp(self.bound)[1] - 1 - _FIRST_LIMB_BITS - limb * _LIMB_BITS

    def _beyond(self, addend: Tensor, where: str) -> NonFinite | OutOfBound:
        value = first_marked(addend, ~(addend.abs() <= self.bound))
        if not math.isfinite(value):
            return NonFinite(f"{where}: {value} found, expected finite numbers")
        return OutOfBound(
            f"{where}: {value:.10g} is beyond the bound {self.bound:g} of exact sums;"
            " scale the weights down, or give the method a larger `bound`"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(_Integers):
    """How many: the sum of small integers or of true and false, four bytes each."""

    extent: Extent = per_element

    @property
    def dtype(self) -> torch.dtype:
        """Integers of 32 bits."""
        return torch.int32

    def plain(self, dtype: torch.dtype) -> Field:
        """Counts as floats."""
        return PlainSum(dtype, self.extent)

    def element(self, addend: Tensor, where: str) -> Cell:
        """The addend as it is; small integers or booleans."""
        if addend.dtype.is_floating_point:
            raise TypeError(f"{where}: a Count adds integers or booleans, not {addend.dtype}")
        return Cell(addend.to(torch.int32), _peak(addend))

    def value(self, cell: Cell) -> Tensor:
        """The count."""
        return cell.values.to(torch.float64)


def _bits_of_magic(exponent: int) -> int:
    """The bit pattern of 1.5 * 2^exponent as an integer."""
    return (exponent + 1023) << 52 | 1 << 51


def _peak(counts: Tensor) -> int:
    """The largest magnitude of a tensor of integers; zero for an empty one."""
    if counts.numel() == 0:
        return 0
    low, high = torch.aminmax(counts)
    return max(-int(low.item()), int(high.item()))
