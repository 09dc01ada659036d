"""How many contributions are in, and what their weights sum to, exactly.

Weights are summed as whole numbers of 2^-1074, of which every double is a multiple, in
Python's integers, which do not overflow: in any order, and removable, like an exact sum
of tensors, and rounded only when read.

>>> tally = Tally()
>>> for weight in (0.1, 0.2, 1e16, -1e16):
...     tally.add(weight)
>>> tally.totals
Totals(count=4, weight=0.30000000000000004)
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from weft.merging.errors import CorruptState, NotRemovable
from weft.merging.method import Totals

_ONE = 1 << 1074
_WEIGHT_BYTES = 272  # 2^64 of the largest double
_COUNT, _WEIGHT = "contributions", "weights"


class Tally:
    """Count and exact sum of weights of the contributions in a state."""

    def __init__(self) -> None:
        self._count = 0
        self._weight = 0

    @property
    def totals(self) -> Totals:
        """Both as a method sees them; the sum rounded once."""
        return Totals(count=self._count, weight=self._weight / _ONE)

    def add(self, weight: float) -> None:
        """One contribution more."""
        self._count += 1
        self._weight += _units(weight)

    def require_member(self, where: str) -> None:
        """Raise NotRemovable if there is nothing to remove."""
        if self._count == 0:
            raise NotRemovable(f"{where}: nothing has been added to this state")

    def remove(self, weight: float) -> None:
        """One contribution less."""
        self._count -= 1
        self._weight -= _units(weight)

    def combine(self, other: "Tally") -> None:
        """All that another tally counted."""
        self._count += other._count
        self._weight += other._weight

    def to_tensors(self) -> dict[str, Tensor]:
        """As named tensors, to be stored beside a state."""
        weight = self._weight.to_bytes(_WEIGHT_BYTES, "little", signed=True)
        return {
            _COUNT: torch.tensor([self._count], dtype=torch.int64),
            _WEIGHT: torch.tensor(list(weight), dtype=torch.uint8),
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], where: str) -> "Tally":
        """What `to_tensors` wrote.

        Raises:
            CorruptState: a tensor is missing, or not of the right shape and dtype.
        """
        count, weight = tensors.get(_COUNT), tensors.get(_WEIGHT)
        if count is None or count.dtype != torch.int64 or count.shape != (1,) or count.item() < 0:
            raise CorruptState(f"{where}: the state does not say how many contributions are in it")
        if weight is None or weight.dtype != torch.uint8 or weight.shape != (_WEIGHT_BYTES,):
            raise CorruptState(f"{where}: the state does not say what its weights sum to")
        tally = Tally()
        tally._count = int(count.item())
        tally._weight = int.from_bytes(bytes(weight.tolist()), "little", signed=True)
        return tally


def _units(weight: float) -> int:
    numerator, denominator = weight.as_integer_ratio()
    return numerator * (_ONE // denominator)
