"""The state of a fold: one cell for each field, changed together or not at all."""

from collections.abc import Mapping

import torch
from torch import Tensor

from weft.merging.errors import CannotMerge, CorruptState
from weft.merging.monoids import Cell, Field, Shape

_REACH = ".reach"


class State:
    """The product of some fields, for a block of one shape.

    Every change checks all fields before it touches the first, so a contribution that
    is refused leaves no trace.
    """

    def __init__(self, fields: Mapping[str, Field], cells: Mapping[str, Cell]) -> None:
        self._fields = dict(fields)
        self._cells = dict(cells)

    @staticmethod
    def zero(fields: Mapping[str, Field], shape: Shape) -> "State":
        """Nothing folded yet."""
        return State(fields, {name: field.zero(shape) for name, field in fields.items()})

    @property
    def fields(self) -> dict[str, Field]:
        """The fields by name; a copy."""
        return dict(self._fields)

    def add(self, addends: Mapping[str, Tensor], where: str) -> None:
        """Fold in one addend a field."""
        self._combine(self._elements(addends, where), where)

    def take(self, addends: Mapping[str, Tensor], where: str) -> None:
        """Fold in one addend a field, fast: an error spoils the state."""
        for name, field in self._fields.items():
            field.add(self._cells[name], addends[name], where)

    def _settle(self) -> None:
        for name, field in self._fields.items():
            field.settle(self._cells[name])

    def remove(self, addends: Mapping[str, Tensor], where: str) -> None:
        """Take out again what `add` folded in, byte for byte.

        Raises:
            NotRemovable: a field cannot remove, or this was never added.
        """
        elements = self._elements(addends, where)
        self._settle()
        for name, field in self._fields.items():
            field.require_member(self._cells[name], elements[name], where)
        for name, field in self._fields.items():
            field.subtract(self._cells[name], elements[name], where)

    def combine(self, other: "State", where: str) -> None:
        """Fold in what another state of the same fields holds; `other` is not modified."""
        if other._fields != self._fields:
            raise CannotMerge(f"{where}: a state of {other._fields} does not fit {self._fields}")
        other._settle()
        self._combine(other._cells, where)

    def values(self) -> dict[str, Tensor]:
        """What the state stands for: new tensors."""
        self._settle()
        return {name: field.value(self._cells[name]) for name, field in self._fields.items()}

    def to_tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to be stored; equal states give equal bytes."""
        self._settle()
        tensors = {}
        for name, cell in self._cells.items():
            tensors[name] = cell.values
            tensors[name + _REACH] = torch.tensor([cell.reach], dtype=torch.int64)
        return tensors

    @staticmethod
    def from_tensors(
        fields: Mapping[str, Field], shape: Shape, tensors: Mapping[str, Tensor], where: str
    ) -> "State":
        """The state that `to_tensors` wrote.

        Raises:
            CorruptState: a tensor is missing, or not of this shape and dtype.
        """
        cells = {}
        for name, field in fields.items():
            values = _take(tensors, name, field.state_shape(shape), field.dtype, where)
            reach = _take(tensors, name + _REACH, (1,), torch.int64, where)
            if reach.item() < 0:
                raise CorruptState(f"{where}: {name + _REACH!r} is negative")
            cells[name] = Cell(values.clone(), int(reach.item()))
        return State(fields, cells)

    def _elements(self, addends: Mapping[str, Tensor], where: str) -> dict[str, Cell]:
        return {name: field.element(addends[name], where) for name, field in self._fields.items()}

    def _combine(self, cells: Mapping[str, Cell], where: str) -> None:
        self._settle()
        for name, field in self._fields.items():
            field.require_room(self._cells[name], cells[name], where)
        for name, field in self._fields.items():
            field.combine(self._cells[name], cells[name], where)


def state_bytes(fields: Mapping[str, Field], shape: Shape) -> int:
    """Bytes of memory that a state of these fields takes for a block of that shape."""
    return sum(field.state_bytes(shape) for field in fields.values())


def _take(
    tensors: Mapping[str, Tensor], name: str, shape: Shape, dtype: torch.dtype, where: str
) -> Tensor:
    found = tensors.get(name)
    if found is None:
        raise CorruptState(f"{where}: the state has no {name!r}, only {sorted(tensors)}")
    if tuple(found.shape) != shape or found.dtype != dtype:
        raise CorruptState(
            f"{where}: {name!r} is {found.dtype} of shape {tuple(found.shape)}, expected {dtype}"
            f" of shape {shape}"
        )
    return found
