"""Checkpoints given to a merge, and whether they can be merged at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import Schema, TensorSpec
from weft.merging.errors import CannotMerge


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A checkpoint given to a merge; names are distinct within it.

    Attributes:
        key: of its content, for methods that draw; empty where none does.
        where: what messages call it; its name where this is empty.
    """

    name: str
    reader: TensorReader
    weight: float
    key: bytes = b""
    where: str = ""


def require_names(contributions: Sequence[Contribution]) -> tuple[str, ...]:
    """The names of the contributions, if there are some and they are distinct.

    Raises:
        CannotMerge: nothing to merge, or two of one name.
    """
    names = tuple(item.name for item in contributions)
    if not names:
        raise CannotMerge("nothing to merge: no contribution has a weight other than zero")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CannotMerge(f"two contributions are called {twice!r}; names must be distinct")
    return names


def require_alike(
    specs: Sequence[TensorSpec], base: TensorReader | None, contributions: Sequence[Contribution]
) -> None:
    """Every parameter is in every reader, with one shape; dtypes may differ."""
    for item in contributions:
        _require_tensors(specs, item.reader.schema, item.where or item.name)
    if base is not None:
        _require_tensors(specs, base.schema, "the base")


def _require_tensors(specs: Sequence[TensorSpec], schema: Schema, where: str) -> None:
    for spec in specs:
        if spec.kind != "parameter":
            continue
        if spec.name not in schema:
            raise SchemaMismatch(f"{where}: tensor {spec.name!r} is missing")
        found = schema[spec.name]
        if found.shape != spec.shape or found.kind != spec.kind:
            raise SchemaMismatch(
                f"{where}: tensor {spec.name!r} is {found.describe()}, expected {spec.describe()}"
            )
