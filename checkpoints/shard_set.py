"""The shards of one output in their folder: which are there, which come, what they hold."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from weft.checkpoints.digest import DIGEST_BYTES, chunk_count
from weft.checkpoints.disk import disk_errors
from weft.checkpoints.entries import TensorEntry
from weft.checkpoints.errors import BadTensor, TooLarge
from weft.checkpoints.manifest import MAX_CHUNKS, MAX_MANIFEST_BYTES, Manifest
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.shard_records import (
    HashedBlocks,
    hash_shard,
    read_record,
    record_name,
    write_record,
)
from weft.checkpoints.shards import Shard
from weft.checkpoints.writer import SafetensorsWriter


def artifact_digest(entries: Iterable[TensorEntry]) -> str:
    """The digest that a store gives to a model of these tensors, however it lies in files."""
    return Manifest(kind="model", tensors=tuple(entries)).digest


def require_nameable(schema: Schema) -> None:
    """Check that an artifact of these tensors can have a digest at all.

    Raises:
        TooLarge: more tensors, chunks or bytes of manifest than one may have.
    """
    chunks = sum(chunk_count(spec.size_bytes) for spec in schema)
    if chunks > MAX_CHUNKS:
        raise TooLarge(f"a model of {schema.size_bytes} bytes is beyond {MAX_CHUNKS} chunks")
    entries = (
        TensorEntry(
            name=spec.name,
            dtype=spec.dtype,
            shape=spec.shape,
            size_bytes=spec.size_bytes,
            chunks=(bytes(DIGEST_BYTES),) * chunk_count(spec.size_bytes),
        )
        for spec in schema
    )
    size = len(Manifest(kind="model", tensors=tuple(entries)).to_bytes())
    if size > MAX_MANIFEST_BYTES:
        raise TooLarge(f"a manifest of {size} bytes is beyond {MAX_MANIFEST_BYTES}")


class ShardSet:
    """Takes tensors in the schema's order and fills one shard after the other.

    Args:
        folder: where the shards lie.
        shards: as planned.
        metadata: noted in the header of each.

    Attributes:
        waiting: tensors that are still to be written, in their order.
        damaged: shards that were there and not what was written; they are made again.
        bytes_written: of the shards that were finished here.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], metadata: Mapping[str, str]) -> None:
        self.waiting: deque[TensorSpec] = deque()
        self.damaged: list[str] = []
        self.bytes_written = 0
        self._folder = folder
        self._shards = shards
        self._metadata = dict(metadata)
        self._home = {name: shard for shard in shards for name in shard.schema.names}
        self._entries: dict[str, TensorEntry] = {}
        self._missing: dict[str, Shard] = {}
        self._writer: SafetensorsWriter | None = None

    @property
    def names(self) -> set[str]:
        """The files that the shards and their records have."""
        return {name for shard in self._shards for name in (shard.name, record_name(shard))}

    @property
    def missing_bytes(self) -> int:
        """Size of the shards that are still to be written."""
        return sum(shard.size_bytes for shard in self._missing.values())

    def take_over(self, digest: str) -> None:
        """Find the shards that are whole, reading every byte; remove what is not.

        Args:
            digest: of the whole model where it was complete, since then the records may be
                gone; else empty.
        """
        found = [hash_shard(self._folder, shard, self._metadata) for shard in self._shards]
        whole = [entry for entries in found for entry in entries or ()]
        complete = None not in found and artifact_digest(whole) == digest
        for shard, entries in zip(self._shards, found, strict=True):
            if entries and (complete or entries == read_record(self._folder, shard)):
                self._entries |= {entry.name: entry for entry in entries}
            else:
                self._start_again(shard)

    def _start_again(self, shard: Shard) -> None:
        self._missing[shard.name] = shard
        self.waiting += shard.schema.tensors
        path = self._folder / shard.name
        if path.is_symlink() or path.exists():
            self.damaged.append(shard.name)
            path.unlink()
        (self._folder / record_name(shard)).unlink(missing_ok=True)

    def write(self, spec: TensorSpec, data: Tensor | Iterable[Tensor]) -> None:
        """Take the next of the waiting tensors; see `TensorSink.write`."""
        if not self.waiting or self.waiting[0] != spec:
            raise BadTensor(
                f"tensor {spec.name}: not its turn; the remaining tensors come in order, once"
            )
        if isinstance(data, Tensor):
            if tuple(data.shape) != spec.shape:
                raise BadTensor(
                    f"tensor {spec.name}: shape {tuple(data.shape)}, {spec.shape} expected"
                )
            data = [data.detach().cpu().contiguous().reshape(-1)]
        hashed = HashedBlocks(spec, data)
        shard = self._home[spec.name]
        self._open(shard).write(spec.name, hashed)
        self._entries[spec.name] = hashed.entry()
        self.waiting.popleft()
        if spec == shard.schema.tensors[-1]:
            self._close(shard)

    def _open(self, shard: Shard) -> SafetensorsWriter:
        if self._writer is None:
            path = self._folder / shard.name
            self._writer = SafetensorsWriter(path, shard.schema, self._metadata).__enter__()
        return self._writer

    def _close(self, shard: Shard) -> None:
        with disk_errors(self._folder / shard.name):
            write_record(self._folder, shard, self._entries)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(None, None, None)
        self.bytes_written += shard.size_bytes
        del self._missing[shard.name]

    def abandon(self, error: BaseException) -> None:
        """Leave the shard that is being written; nothing of it stays."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)

    def digest(self) -> str:
        """The digest of the whole model.

        Raises:
            BadTensor: a tensor was not written, or its shard could not be finished.
        """
        if self._missing:
            name = self.waiting[0].name if self.waiting else min(self._missing)
            raise BadTensor(
                f"{self._folder}: {len(self.waiting)} tensors in {len(self._missing)} files were "
                f"not written, {name} the first; the model is not finished"
            )
        return artifact_digest(self._entries.values())

    def remove_records(self) -> None:
        """Remove the records; what they say is in the digest by now."""
        for shard in self._shards:
            (self._folder / record_name(shard)).unlink(missing_ok=True)
