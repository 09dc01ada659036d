"""Layers of several checkpoints, one on the other, read as one checkpoint.

    StackedReader([Part(a, 0, 24), Part(b, 20, 40)])        44 layers

Nothing is copied: tensors are renamed, and read where they lie.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.stacking import only_stack, split_layer, stands_before

Home: TypeAlias = tuple[RangeReader, TensorSpec]
"""Where a tensor lies: the checkpoint, and the tensor's name, dtype and shape there."""


@dataclass(frozen=True, slots=True)
class Part:
    """Layers `first` to `stop`, the latter left out, of a checkpoint."""

    reader: RangeReader
    first: int
    stop: int


class StackedReader(RangeReader):
    """The layers of all parts in their order, numbered from zero.

    What stands before the layers (embeddings) comes from the first part's checkpoint,
    what stands after them (norm, head) from the last one's, as mergekit does it; see
    `weft.checkpoints.stacking`. A checkpoint may be in several parts. Closing it closes
    them all.

    Raises:
        SchemaMismatch: no part, a range that is empty or beyond a checkpoint's layers,
            or checkpoints that do not have one stack of layers of the same name.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        if not parts:
            raise SchemaMismatch("a stack of layers without layers: no part was given")
        self._parts = tuple(parts)
        stack = only_stack(parts[0].reader.schema.names, parts[0].reader.where)
        self._home: dict[str, Home] = {}
        offset = 0
        for part in parts:
            _check_part(part, stack)
            self._home.update(_layers(part, offset))
            offset += part.stop - part.first
        self._home.update(_outside(parts[0].reader, before=True))
        self._home.update(_outside(parts[-1].reader, before=False))
        self._schema = Schema(
            tuple(
                TensorSpec(name, spec.dtype, spec.shape) for name, (_, spec) in self._home.items()
            )
        )
        self.layers = offset

    @property
    def schema(self) -> Schema:
        """The tensors of the stack, sorted by name."""
        return self._schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the writer of the first part's checkpoint noted."""
        return self._parts[0].reader.metadata

    @property
    def where(self) -> str:
        """The parts."""
        return " + ".join(f"{part.reader.where}[{part.first}:{part.stop}]" for part in self._parts)

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset within it."""
        reader, original = self._home[spec.name]
        reader.fill(original, into, offset)

    def close(self) -> None:
        """Close every part's checkpoint; closing twice is allowed."""
        for part in self._parts:
            part.reader.close()


def _check_part(part: Part, stack: str) -> None:
    reader = part.reader
    found = only_stack(reader.schema.names, reader.where)
    if found != stack:
        raise SchemaMismatch(
            f"{reader.where}: the layers are those of {found!r}, expected {stack!r} as in the "
            "first part of the stack"
        )
    held = {cut.index for cut in map(split_layer, reader.schema.names) if cut}
    inside = 0 <= part.first < part.stop <= max(held) + 1
    if not inside or not held.issuperset(range(part.first, part.stop)):
        raise SchemaMismatch(
            f"{reader.where}: layers {part.first} to {part.stop} were asked for; expected a range "
            f"within its {max(held) + 1} layers, the last one left out"
        )


def _layers(part: Part, offset: int) -> Iterator[tuple[str, Home]]:
    for spec in part.reader.schema:
        cut = split_layer(spec.name)
        if cut and part.first <= cut.index < part.stop:
            yield cut.at(offset + cut.index - part.first), (part.reader, spec)


def _outside(reader: RangeReader, *, before: bool) -> Iterator[tuple[str, Home]]:
    for spec in reader.schema:
        if split_layer(spec.name) is None and stands_before(spec.name) == before:
            yield spec.name, (reader, spec)
