"""A delta that stands alone: one artifact in a folder, as a store would hold it.

    D/manifest.json              names the base's digest under `against`
    D/payload.safetensors        the encoded tensors

A store takes it in by copying the folder to the place of its digest, or chunk by chunk.
Read on its base it is the fine-tuned model, any range of it: blocks decode by themselves,
and where they begin follows from their frames.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final

import torch
from torch import Tensor

from weft.checkpoints.artifacts import put_delta
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.codecs.codec import ByteStream
from weft.checkpoints.codecs.registry import create
from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.disk import read_whole
from weft.checkpoints.dtypes import TORCH_DTYPES, bytes_of
from weft.checkpoints.entries import PLAIN
from weft.checkpoints.errors import BadEncoding, MissingCheckpoint, WrongBase, WrongKind
from weft.checkpoints.manifest import MAX_MANIFEST_BYTES, Manifest
from weft.checkpoints.new_folder import new_folder
from weft.checkpoints.objects import MANIFEST_NAME, PAYLOAD_NAME
from weft.checkpoints.payload import Payload
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import BLOCK_ELEMENTS, DTYPE_BYTES, Schema, TensorSpec, check
from weft.checkpoints.store import Store

__all__ = ["DeltaFolderReader", "read_manifest", "write_delta"]

WORK: Final = "store"


REMEDY: Final = "copy the folder again, or make it again (weft diff)"


class DeltaFolderReader(RangeReader):
    """The fine-tuned model that a delta folder makes of its base; verified as it is read.

    Closing it leaves the base open.

    Args:
        folder: holds manifest and payload.
        base: what the delta is against; stays open while this is read. Where the delta is
            against nothing it gives the schema that is expected, and no more.
        base_digest: of the base, as `model_digest` gives it.

    Raises:
        MissingCheckpoint: a file is missing.
        BadManifest, CorruptArtifact: the files are not those of an artifact.
        WrongKind: the artifact is no delta.
        WrongBase: the delta was taken against another base.
        SchemaMismatch: the delta does not have the base's tensors.
    """

    decodes: ClassVar[bool] = True

    def __init__(self, folder: Path, base: RangeReader, base_digest: str) -> None:
        self.path = folder
        self.manifest = read_manifest(folder)
        self._base = None if self.manifest.against is None else base
        if self._base is not None:
            _check_digest(self.manifest, base, base_digest, str(folder))
        # Also where nothing is subtracted: the base bounds what is believed and allocated.
        check(self.manifest.schema, base.schema, str(folder))
        self._codec = create(self.manifest.codec)
        if not (folder / PAYLOAD_NAME).exists():
            raise MissingCheckpoint(f"{folder / PAYLOAD_NAME}: no such file")
        self._payload = Payload(
            folder / PAYLOAD_NAME, self.manifest, called=str(folder / PAYLOAD_NAME), remedy=REMEDY
        )
        self._starts: dict[str, list[int]] = {}

    @property
    def schema(self) -> Schema:
        """The decoded tensors, sorted by name."""
        return self.manifest.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What was put beside the tensors."""
        return self.manifest.metadata

    @property
    def digest(self) -> str:
        """The delta's."""
        return self.manifest.digest

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.path)

    def ranges(self, name: str, start: int, stop: int, step: int) -> Iterator[Tensor]:
        """See `RangeReader.ranges`; decodes each block that it touches once."""
        spec = self.schema[name]
        buffer = torch.empty(min(step, stop - start), dtype=TORCH_DTYPES[spec.dtype])
        number, block = -1, buffer
        for first in range(start, stop, step):
            last = min(first + step, stop)
            at = first
            while at < last:
                if at // BLOCK_ELEMENTS != number:
                    number = at // BLOCK_ELEMENTS
                    block = self._decode(spec, number)
                end = min(last, (number + 1) * BLOCK_ELEMENTS)
                begin = number * BLOCK_ELEMENTS
                buffer[at - first : end - first] = block[at - begin : end - begin]
                at = end
            yield buffer[: last - first]

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset that begins an element."""
        width = DTYPE_BYTES[spec.dtype]
        start = offset // width
        stop = start + len(into) // width
        for block in self.ranges(spec.name, start, stop, max(stop - start, 1)):
            into[:] = bytes_of(block)

    def _decode(self, spec: TensorSpec, number: int) -> Tensor:
        """One block, decoded onto the base's."""
        first = number * BLOCK_ELEMENTS
        last = min(first + BLOCK_ELEMENTS, spec.elements)
        part = TensorSpec(spec.name, spec.dtype, (last - first,))
        begin, end = self._block_starts(spec)[number : number + 2]
        where = f"{self.path}: tensor {spec.name}"
        stream = ByteStream([self._encoded(spec.name, begin, end)], where)
        base = None
        if self._base is not None:
            base = self._base.ranges(spec.name, first, last, last - first)
        (block,) = self._codec.decode(part, stream, base)
        return block

    def _encoded(self, name: str, begin: int, end: int) -> memoryview:
        """Encoded bytes, verified: read with the whole chunks around them."""
        first = begin // CHUNK_BYTES * CHUNK_BYTES
        size = self.manifest.entry(name).size_bytes
        last = min(-(-end // CHUNK_BYTES) * CHUNK_BYTES, size)
        data = memoryview(bytearray(last - first))
        self._payload.fill(name, data, first)
        return data[begin - first : end - first]

    def _block_starts(self, spec: TensorSpec) -> list[int]:
        """Where the blocks begin in the encoded bytes, and at the end where the last ends.

        Found once a tensor from the frames alone, unverified: a wrong one is met when the
        block is read, verified and decoded. Threads may find them twice.
        """
        if spec.name not in self._starts:
            starts = [0]
            for first in range(0, spec.elements, BLOCK_ELEMENTS):
                elements = min(BLOCK_ELEMENTS, spec.elements - first)
                starts.append(starts[-1] + self._block_bytes(spec, elements, starts[-1]))
            if starts[-1] != self.manifest.entry(spec.name).size_bytes:
                raise BadEncoding(f"{self.path}: tensor {spec.name}: bytes are left or missing")
            self._starts[spec.name] = starts
        return self._starts[spec.name]

    def _block_bytes(self, spec: TensorSpec, elements: int, offset: int) -> int:
        def peek(at: int, count: int) -> bytes:
            return self._payload.peek(spec.name, at, count)

        found = self._codec.block_bytes(spec, elements, offset, peek)
        if found > self._codec.bound_bytes(TensorSpec(spec.name, spec.dtype, (elements,))):
            raise BadEncoding(f"{self.path}: tensor {spec.name}: a block claims {found} bytes")
        return found

    def close(self) -> None:
        """Close the payload, not the base; closing twice is allowed."""
        self._payload.close()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a delta folder.

    Raises:
        MissingCheckpoint: there is none.
        BadManifest, TooLarge: it is none.
        WrongKind: it is that of another kind of artifact.
    """
    path = folder / MANIFEST_NAME
    manifest = Manifest.from_bytes(read_whole(path, MAX_MANIFEST_BYTES))
    if manifest.kind != "delta" or manifest.codec == PLAIN:
        raise WrongKind(
            f"{folder}: an artifact of kind {manifest.kind}, coded {manifest.codec}; a delta is "
            f"expected (a model's {PAYLOAD_NAME} can be opened by itself)"
        )
    return manifest


def write_delta(
    folder: Path,
    finetuned: TensorReader,
    base: TensorReader,
    against: str,
    codec: str,
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write what a fine-tuned model changes of a base as a delta folder; returns its digest.

    Args:
        folder: appears whole; nothing may be there yet.
        finetuned: the model.
        base: what it is taken against.
        against: the base's digest, as `model_digest` gives it.
        codec: "lossless" or "raw".
        metadata: part of the digest.

    Raises:
        SchemaMismatch: the model does not have the base's tensors.
        UnknownCodec: no codec of that name.
        BadPath: something is there already, or it cannot be written.
        DiskFull: no room.
    """
    create(codec)
    check(finetuned.schema, base.schema, _called(finetuned, "the fine-tuned model"))
    with new_folder(folder) as made:
        store = Store(made / WORK)
        digest = put_delta(store, finetuned, base, against, codec, metadata=metadata)
        for name in (MANIFEST_NAME, PAYLOAD_NAME):
            os.rename(store.payload_path(digest).with_name(name), made / name)
        shutil.rmtree(made / WORK)
    return digest


def _called(reader: TensorReader, otherwise: str) -> str:
    return reader.where if isinstance(reader, RangeReader) else otherwise


def _check_digest(manifest: Manifest, base: RangeReader, digest: str, where: str) -> None:
    if digest != manifest.against:
        raise WrongBase(
            f"{where}: a delta against {manifest.against}, the base at hand ({base.where}) is "
            f"{digest}; give the base that it was taken from"
        )
