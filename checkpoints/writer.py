"""Checkpoints written as a stream: header first, durable, in one step.

    with SafetensorsWriter(path, schema, {"format": "pt"}) as writer:
        for spec in schema:
            writer.write(spec.name, blocks_of(spec.name))

Tensors may come in any order, each once, whole or in flat blocks. Until the
context ends well the file does not exist under its name; a reader never sees
half of it. What is written opens with the safetensors library.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from torch import Tensor

from weft.checkpoints.disk import DurableFile, write_bytes
from weft.checkpoints.dtypes import DTYPE_NAMES, bytes_of, schema_of
from weft.checkpoints.errors import BadTensor
from weft.checkpoints.header import MAX_HEADER_BYTES, build_header, layout_offsets
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec

__all__ = ["SafetensorsWriter", "TensorSink", "flat_bytes", "write_bytes", "write_checkpoint"]

TORCH_METADATA: Final = {"format": "pt"}
"""What other libraries expect to find in a file of torch tensors."""


class TensorSink(Protocol):
    """Takes the tensors of a schema, one after the other, in the schema's order."""

    @property
    def schema(self) -> Schema:
        """What is expected."""
        ...

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        """Take one tensor: whole, or as blocks that follow each other.

        Raises:
            MissingTensor: the schema has no such tensor.
            BadTensor: other dtype, shape or number of elements, or written twice.
            DiskFull: no room.
        """
        ...


class SafetensorsWriter:
    """One safetensors file; a `TensorSink` that takes the tensors in any order.

    Args:
        path: the file; replaced in one step where it exists.
        schema: the tensors that will be written.
        metadata: noted in the header; `TORCH_METADATA` where none is given.

    Raises:
        DiskFull: the room for the whole file cannot be reserved; nothing is left behind.
        BadPath: the folder is missing or may not be written.
        BadTensor: when the context ends and a tensor was not written.
    """

    def __init__(
        self, path: Path | str, schema: Schema, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._schema = schema
        self._path = Path(path)
        self._header = build_header(schema, TORCH_METADATA if metadata is None else metadata)
        if len(self._header) > MAX_HEADER_BYTES:
            raise BadTensor(
                f"{path}: {len(schema)} tensors need a header of {len(self._header)} bytes, "
                f"beyond the limit of {MAX_HEADER_BYTES}"
            )
        self._offsets = layout_offsets(schema)
        self._missing = set(schema.names)
        self._taken: dict[str, int] = {}
        self._file = DurableFile(self._path, reserve_bytes=len(self._header) + schema.size_bytes)

    @property
    def schema(self) -> Schema:
        """What is expected."""
        return self._schema

    def __enter__(self) -> Self:
        self._file.__enter__()
        try:
            self._file.write_at(self._header, 0)
        except BaseException as error:
            self._file.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        """Write one tensor; see `TensorSink.write`."""
        spec = self._schema[name]
        if name not in self._missing:
            raise BadTensor(f"{self._path}: tensor {name} is written twice")
        offset = len(self._header) + self._offsets[name]
        for part in flat_bytes(spec, data):
            self._file.write_at(part, offset)
            offset += len(part)
        self._missing.discard(name)

    def extend(self, name: str, block: Tensor) -> None:
        """Write the next flat block of a tensor; several tensors may grow at a time.

        Raises:
            MissingTensor: the schema has no such tensor.
            BadTensor: another dtype, or more elements than expected.
        """
        spec = self._schema[name]
        start = self._taken.get(name, 0)
        stop = start + block.numel()
        if DTYPE_NAMES.get(block.dtype) != spec.dtype or stop > spec.elements:
            raise BadTensor(
                f"tensor {name}: elements {start} to {stop} of {block.dtype} given, "
                f"{spec.describe()} expected"
            )
        offset = len(self._header) + self._offsets[name] + start * DTYPE_BYTES[spec.dtype]
        self._file.write_at(bytes_of(block), offset)
        self._taken[name] = stop
        if stop == spec.elements:
            self._missing.discard(name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._missing:
            lacking = BadTensor(
                f"{self._path}: {len(self._missing)} tensors were not written, "
                f"{min(self._missing)} among them; the file is not kept"
            )
            self._file.__exit__(BadTensor, lacking, None)
            raise lacking
        self._file.__exit__(kind, error, trace)


def flat_bytes(spec: TensorSpec, data: Tensor | Iterable[Tensor]) -> Iterable[memoryview]:
    """The bytes of a tensor as they lie in a file, checked against its spec.

    Args:
        spec: what is expected.
        data: the whole tensor, of the spec's shape; or blocks of any lengths
            that hold its elements row by row.

    Raises:
        BadTensor: other dtype or shape, or too few or too many elements.
    """
    if isinstance(data, Tensor):
        if tuple(data.shape) != spec.shape:
            raise BadTensor(f"tensor {spec.name}: shape {tuple(data.shape)}, {spec.shape} expected")
        data = [data]
    elements = 0
    for block in data:
        elements += block.numel()
        if DTYPE_NAMES.get(block.dtype) != spec.dtype:
            raise BadTensor(f"tensor {spec.name}: dtype {block.dtype}, {spec.dtype} expected")
        if elements > spec.elements:
            break
        yield bytes_of(block)
    if elements != spec.elements:
        raise BadTensor(f"tensor {spec.name}: {elements} elements, {spec.elements} expected")


def write_checkpoint(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors in memory as one safetensors file, durably.

    Raises:
        DiskFull: no room.
        BadPath: the folder is missing or may not be written.
        BadTensor, BadSchema: a dtype or a name that cannot be written.
    """
    with SafetensorsWriter(path, schema_of(tensors), metadata) as writer:
        for name in writer.schema.names:
            writer.write(name, tensors[name])
