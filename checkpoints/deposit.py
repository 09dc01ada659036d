"""An artifact that is being made here: stored bytes in, digest out. No torch.

The bytes stream through once: written, cut into chunks and hashed. Its name is
known when the last tensor is in; until then nothing of it is an object.
"""

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self

from weft.checkpoints.digest import Bytes, ChunkHasher
from weft.checkpoints.disk import FILE_MODE, disk_errors, require_space, write_bytes, write_fully
from weft.checkpoints.entries import PLAIN, size_cap
from weft.checkpoints.errors import BadTensor, TooLarge
from weft.checkpoints.header import build_header, layout_offsets
from weft.checkpoints.manifest import MAX_MANIFEST_BYTES, Kind, Manifest, TensorEntry
from weft.checkpoints.objects import (
    MANIFEST_NAME,
    PAYLOAD_NAME,
    PUT_PREFIX,
    READ_ONLY,
    Folders,
    publish,
)
from weft.checkpoints.schema import Schema, TensorSpec

FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Deposit:
    """Takes the stored bytes of each tensor in the schema's order, each once.

    Where the context ends well the object is in the store and `digest` is its
    name; where it ends with an exception nothing is left.

    Args:
        folders: of the store.
        schema: the tensors as a model has them.
        kind, against, codec, metadata: as in `Manifest`.
        expect_bytes: about how many bytes will come, to check for room at once.

    Raises:
        DiskFull: no room.
        BadTensor: when the context ends and a tensor is missing.
    """

    def __init__(
        self,
        folders: Folders,
        schema: Schema,
        *,
        kind: Kind,
        against: str | None = None,
        codec: str = PLAIN,
        metadata: Mapping[str, str] | None = None,
        expect_bytes: int = 0,
    ) -> None:
        self.schema = schema
        self.digest = ""
        self._folders = folders
        self._manifest = Manifest(
            kind=kind, against=against, codec=codec, metadata=metadata or {}, tensors=()
        )
        self._folder = folders.staging / f"{PUT_PREFIX}{secrets.token_hex(8)}"
        self._entries: list[TensorEntry] = []
        self._expect_bytes = expect_bytes
        self._descriptor = -1
        self._cursor = 0
        self._offsets = layout_offsets(schema) if codec == PLAIN else None
        self._reserved = len(build_header(self._widest(), self._manifest.metadata))

    def _widest(self) -> Schema:
        """The stored tensors at their largest: their header has room for any."""
        if self._offsets is not None:
            return self.schema
        return Schema(tuple(TensorSpec(spec.name, "U8", (size_cap(spec),)) for spec in self.schema))

    def __enter__(self) -> Self:
        with disk_errors(self._folder, self._expect_bytes):
            require_space(self._folders.staging, self._expect_bytes + self._reserved)
            self._folder.mkdir()
            try:
                self._descriptor = os.open(self._folder / PAYLOAD_NAME, FLAGS, FILE_MODE)
            except BaseException:
                self._discard()
                raise
        return self

    def write(self, name: str, parts: Iterable[Bytes]) -> None:
        """Take the stored bytes of the next tensor, in parts of any length.

        Raises:
            BadTensor: another tensor's turn, or more or fewer bytes than a plain tensor has.
            DiskFull: no room.
        """
        spec = self._next(name)
        offset = self._cursor if self._offsets is None else self._offsets[name]
        cap = size_cap(spec) if self._offsets is None else spec.size_bytes
        hasher = ChunkHasher()
        for part in parts:
            if hasher.size_bytes + len(part) > cap:
                raise BadTensor(f"tensor {name}: more than {cap} bytes; {spec.describe()} expected")
            with disk_errors(self._folder, self._expect_bytes):
                write_fully(self._descriptor, part, self._reserved + offset + hasher.size_bytes)
            hasher.update(part)
        if self._offsets is not None and hasher.size_bytes != cap:
            raise BadTensor(f"tensor {name}: {hasher.size_bytes} bytes, {cap} expected")
        self._cursor += hasher.size_bytes
        self._entries.append(
            TensorEntry(
                name=name,
                dtype=spec.dtype,
                shape=spec.shape,
                size_bytes=hasher.size_bytes,
                chunks=hasher.digests(),
            )
        )

    def _next(self, name: str) -> TensorSpec:
        spec = self.schema[name]
        done = len(self._entries)
        if done == len(self.schema) or self.schema.tensors[done] != spec:
            raise BadTensor(
                f"tensor {name}: not its turn; tensors come in the schema's order, once"
            )
        return spec

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._discard()
            return
        try:
            self.digest = self._finish()
        except BaseException:
            self._discard()
            raise

    def _finish(self) -> str:
        missing = len(self.schema) - len(self._entries)
        if missing:
            raise BadTensor(
                f"{missing} tensors were not put, {self.schema.tensors[-missing].name} the first"
            )
        manifest = Manifest(
            kind=self._manifest.kind,
            against=self._manifest.against,
            codec=self._manifest.codec,
            metadata=self._manifest.metadata,
            tensors=tuple(self._entries),
        )
        document = manifest.to_bytes()
        if len(document) > MAX_MANIFEST_BYTES:
            raise TooLarge(f"manifest: {len(document)} bytes are beyond {MAX_MANIFEST_BYTES}")
        header = build_header(manifest.stored_schema, manifest.metadata, reserved=self._reserved)
        with disk_errors(self._folder, self._expect_bytes):
            os.ftruncate(self._descriptor, self._reserved + self._cursor)
            write_fully(self._descriptor, header, 0)
            os.fchmod(self._descriptor, READ_ONLY)
            os.fsync(self._descriptor)
            write_bytes(self._folder / MANIFEST_NAME, document)
            os.chmod(self._folder / MANIFEST_NAME, READ_ONLY)
        self._close()
        publish(self._folders, self._folder, manifest.digest)
        return manifest.digest

    def _discard(self) -> None:
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
