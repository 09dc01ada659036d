"""What was written into a shard, noted beside it, so that a later process can believe it.

The record of `model-00001-of-00003.safetensors` is `.model-00001-of-00003.json`: the
manifest of its tensors, with the digest of every chunk. It is written when the last byte
of the shard is, and before the shard has its name: a shard without a record was not
finished by us, and one with a record is hashed before it is taken over.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from weft.checkpoints.digest import ChunkHasher
from weft.checkpoints.disk import open_for_reading, read_exactly, write_bytes
from weft.checkpoints.dtypes import bytes_of
from weft.checkpoints.entries import TensorEntry
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.reader import FileReader
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.shards import Shard
from weft.errors import WeftError


class HashedBlocks:
    """Passes a tensor's blocks on and hashes each of them once it has been used."""

    def __init__(self, spec: TensorSpec, blocks: Iterable[Tensor]) -> None:
        self._spec = spec
        self._blocks = blocks
        self._hasher = ChunkHasher()

    def __iter__(self) -> Iterator[Tensor]:
        for block in self._blocks:
            yield block
            self._hasher.update(bytes_of(block))

    def entry(self) -> TensorEntry:
        """What the tensor is, once all its blocks have passed."""
        return TensorEntry(
            name=self._spec.name,
            dtype=self._spec.dtype,
            shape=self._spec.shape,
            size_bytes=self._hasher.size_bytes,
            chunks=self._hasher.digests(),
        )


def record_name(shard: Shard) -> str:
    """The file that holds the record of a shard."""
    return f".{Path(shard.name).stem}.json"


def write_record(folder: Path, shard: Shard, entries: Mapping[str, TensorEntry]) -> None:
    """Note durably what was written into a shard."""
    kept = tuple(entries[name] for name in shard.schema.names)
    write_bytes(folder / record_name(shard), Manifest(kind="share", tensors=kept).to_bytes())


def read_record(folder: Path, shard: Shard) -> tuple[TensorEntry, ...] | None:
    """What was noted of a shard; None where there is nothing, or nothing that makes sense."""
    path = folder / record_name(shard)
    try:
        descriptor, size = open_for_reading(path, follow=False)
        try:
            data = bytearray(size)
            read_exactly(descriptor, memoryview(data), 0, str(path))
        finally:
            os.close(descriptor)
        return Manifest.from_bytes(bytes(data)).tensors
    except WeftError:
        return None


def hash_shard(
    folder: Path, shard: Shard, metadata: Mapping[str, str]
) -> tuple[TensorEntry, ...] | None:
    """What is in a shard's file, every byte of it read; None where it is not that shard."""
    path = folder / shard.name
    if path.is_symlink():
        return None
    try:
        with FileReader(path) as reader:
            alike = reader.schema == shard.schema and dict(reader.metadata) == dict(metadata)
            if not alike or path.stat().st_size != shard.size_bytes:
                return None
            return tuple(_hash_tensor(reader, spec) for spec in shard.schema)
    except WeftError:
        return None


def _hash_tensor(reader: FileReader, spec: TensorSpec) -> TensorEntry:
    hashed = HashedBlocks(spec, reader.blocks(spec.name))
    for _ in hashed:
        pass  # reading is all there is to do
    return hashed.entry()
