"""Checkpoints read as a stream: one safetensors file, or a folder of them.

Bytes are read with pread into buffers of our own; nothing is mapped, so memory
stays flat and a file that shrinks is an error, not a signal. Every file passes
the strict parser of `header.py` first. Different iterators of one reader may run
in different threads.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Protocol, Self

from torch import Tensor

from weft.checkpoints.blocks import BlockReader, MemoryReader, RangeReader
from weft.checkpoints.disk import open_for_reading, read_exactly, reading_errors
from weft.checkpoints.errors import BadPath, MalformedFile, MissingCheckpoint, UnsupportedFile
from weft.checkpoints.header import (
    LENGTH_BYTES,
    SIGNATURE_BYTES,
    Header,
    header_length,
    parse_header,
    parse_strict,
)
from weft.checkpoints.schema import Schema, TensorSpec

__all__ = [
    "BlockReader",
    "FileReader",
    "MemoryReader",
    "RangeReader",
    "ShardedReader",
    "TensorReader",
    "open_checkpoint",
    "read_schema",
]

INDEX_NAME: Final = "model.safetensors.index.json"
SUFFIX: Final = ".safetensors"
PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
MAX_INDEX_BYTES: Final = 32 * 2**20
MAX_SHARDS: Final = 512


class TensorReader(Protocol):
    """Named tensors that are read one after the other, or block by block."""

    @property
    def schema(self) -> Schema:
        """The tensors, sorted by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the writer noted beside the tensors."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, whole, in memory of its own.

        Raises:
            MissingTensor: no tensor of that name.
            Corrupt: the bytes are not what they claim to be.
        """
        ...

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks of `BLOCK_ELEMENTS` elements, the last shorter.

        A block is valid until the next one is asked for: its buffer may be used
        again. Copy what must live longer. A tensor without elements has no block.

        Raises:
            MissingTensor: no tensor of that name.
            Corrupt: the bytes are not what they claim to be.
        """
        ...

    def close(self) -> None:
        """Give back the files; closing twice is allowed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class FileReader(RangeReader):
    """One safetensors file.

    Raises:
        MissingCheckpoint: there is no such file.
        UnsupportedFile: a file of another kind.
        MalformedFile: a rule of the format is broken; names the first.
        BadPath: no regular file, or it may not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor, size = open_for_reading(path)
        try:
            self.header = _read_header(self._descriptor, size, str(path))
        except BaseException:
            self.close()
            raise

    @property
    def schema(self) -> Schema:
        """The tensors, sorted by name."""
        return self.header.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What stood under `__metadata__`."""
        return self.header.metadata

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset within it."""
        if self._descriptor < 0:
            raise BadPath(f"{self.path}: read after the reader was closed; open it again")
        read_exactly(self._descriptor, into, self.header.offsets[spec.name] + offset, self.where)

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class ShardedReader(RangeReader):
    """A folder of safetensors files with the index that names who holds what.

    Raises:
        MalformedFile: index and shards disagree, or a shard's name is a path.
        MissingCheckpoint: the index names a shard that is not there.
    """

    def __init__(self, index: Path) -> None:
        self.path = index
        homes = _read_index(index)
        with ExitStack() as stack:
            shards = {
                name: stack.enter_context(FileReader(index.parent / name))
                for name in sorted(set(homes.values()))
            }
            self._shard_of = {tensor: shards[name] for tensor, name in homes.items()}
            self._schema = _schema_of_shards(shards, homes, str(index))
            texts = {key: text for shard in shards.values() for key, text in shard.metadata.items()}
            self._metadata = MappingProxyType(texts)
            self._open = stack.pop_all()

    @property
    def schema(self) -> Schema:
        """The tensors of all shards, sorted by name."""
        return self._schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What stood in the shards; where they differ the last shard counts."""
        return self._metadata

    @property
    def where(self) -> str:
        """The path of the index."""
        return str(self.path)

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset within it."""
        self._shard_of[spec.name].fill(spec, into, offset)

    def close(self) -> None:
        """Close all shards; closing twice is allowed."""
        self._open.close()


def open_checkpoint(path: Path | str) -> FileReader | ShardedReader:
    """Open a checkpoint for reading.

    Args:
        path: a safetensors file; a folder with `model.safetensors.index.json`
            and its shards; or a folder with exactly one `.safetensors` file.

    Raises:
        MissingCheckpoint: nothing is there.
        UnsupportedFile: something else is there: a pickle, an archive, a web
            page, a folder of several checkpoints.
        MalformedFile: it breaks a rule of the format; names the first.
    """
    path = Path(path)
    if not path.is_dir():
        return (
            ShardedReader(path) if path.name.endswith(f"{SUFFIX}.index.json") else FileReader(path)
        )
    if (path / INDEX_NAME).exists():
        return ShardedReader(path / INDEX_NAME)
    with reading_errors(path):
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    found = [name for name in names if name.endswith(SUFFIX)]
    if len(found) == 1:
        return FileReader(path / found[0])
    if found:
        raise UnsupportedFile(
            f"{path}: {len(found)} .safetensors files ({', '.join(found[:3])}, ...) and no "
            f"{INDEX_NAME}; name the file itself"
        )
    pickled = next((name for name in names if Path(name).suffix in PICKLES), None)
    if pickled:
        raise UnsupportedFile(
            f"{path}: holds {pickled} and no .safetensors file; weft never opens pickles: "
            "save the model with safetensors"
        )
    raise MissingCheckpoint(f"{path}: no .safetensors file in this folder")


def read_schema(path: Path | str) -> Schema:
    """The schema of a checkpoint, from its headers alone; see `open_checkpoint`."""
    with open_checkpoint(path) as reader:
        return reader.schema


def _read_header(descriptor: int, size: int, where: str) -> Header:
    first = bytearray(min(size, SIGNATURE_BYTES))
    read_exactly(descriptor, memoryview(first), 0, where)
    data = bytearray(header_length(bytes(first), size, where))
    read_exactly(descriptor, memoryview(data), LENGTH_BYTES, where)
    return parse_header(bytes(data), size, where)


def _read_index(path: Path) -> dict[str, str]:
    """Which file holds each tensor."""
    descriptor, size = open_for_reading(path)
    try:
        if size > MAX_INDEX_BYTES:
            raise MalformedFile(f"{path}: {size} bytes are beyond the limit of {MAX_INDEX_BYTES}")
        data = bytearray(size)
        read_exactly(descriptor, memoryview(data), 0, str(path))
    finally:
        os.close(descriptor)
    homes = parse_strict(bytes(data), str(path), floats=True).get("weight_map")
    if not isinstance(homes, dict):
        raise MalformedFile(f"{path}: no weight_map from tensors to files")
    checked = {tensor: _shard_name(name, path) for tensor, name in homes.items()}
    shards = len(set(checked.values()))
    if not 1 <= shards <= MAX_SHARDS:
        raise MalformedFile(f"{path}: names {shards} files; expected 1 to {MAX_SHARDS}")
    return checked


def _shard_name(name: object, index: Path) -> str:
    plain = isinstance(name, str) and name.isprintable() and name == os.path.basename(name)
    if not plain or not str(name).endswith(SUFFIX):
        raise MalformedFile(
            f"{index}: {str(name)[:80]!r} is not the plain name of a {SUFFIX} file beside it"
        )
    return str(name)


def _schema_of_shards(
    shards: Mapping[str, FileReader], homes: Mapping[str, str], where: str
) -> Schema:
    """The schemas of all shards in one, where they hold just what the index says."""
    for name, shard in shards.items():
        promised = {tensor for tensor, home in homes.items() if home == name}
        for tensor in sorted(promised ^ set(shard.schema.names)):
            fault = "lacks" if tensor in promised else "holds, and the index says otherwise,"
            raise MalformedFile(f"{where}: {name} {fault} tensor {tensor[:80]!r}")
    return Schema(tuple(spec for shard in shards.values() for spec in shard.schema))
