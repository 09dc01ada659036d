"""The stored bytes of one object, read by chunk and verified as they are read. No torch."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from weft.checkpoints.digest import CHUNK_BYTES, chunk_digest
from weft.checkpoints.disk import open_for_reading, read_exactly
from weft.checkpoints.errors import CorruptArtifact, MissingArtifact, MissingCheckpoint
from weft.checkpoints.header import LENGTH_BYTES, build_header
from weft.checkpoints.manifest import ChunkRef, Manifest

REMEDY: Final = "remove it (weft store verify --remove) and fetch or make it again"


class Payload:
    """An open object. Reads have no position: threads may share it.

    Args:
        path: its payload file.
        manifest: what it holds.
        verify: hash every chunk that is read. Without it bytes that rotted on
            the disk go unnoticed.

        called: what messages call it; the artifact's digest where nothing is said.
        remedy: what they say is to be done.

    Raises:
        MissingArtifact: the object was removed.
        CorruptArtifact: the file does not have the size that the manifest implies.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        verify: bool = True,
        called: str = "",
        remedy: str = REMEDY,
    ) -> None:
        self.manifest = manifest
        self._name = called or f"artifact {manifest.digest}"
        self._remedy = remedy
        self._verify = verify
        try:
            self._descriptor, size = open_for_reading(path, follow=False)
        except MissingCheckpoint:
            raise MissingArtifact(f"{path}: the artifact is gone from this store") from None
        try:
            self._data_start = self._find_data(size)
        except BaseException:
            self.close()
            raise

    def _find_data(self, size: int) -> int:
        length = bytearray(LENGTH_BYTES)
        if size >= LENGTH_BYTES:
            read_exactly(self._descriptor, memoryview(length), 0, self._name)
        start = LENGTH_BYTES + int.from_bytes(length, "little")
        if start + self.manifest.total_bytes != size:
            raise CorruptArtifact(
                f"{self._name}: its file has {size} bytes, "
                f"{start + self.manifest.total_bytes} expected; {self._remedy}"
            )
        return start

    def check_header(self) -> None:
        """Compare the file's header with the one that the manifest implies.

        Weft reads by the manifest; other programs open the file by its header.

        Raises:
            CorruptArtifact: it has changed on the disk.
        """
        found = bytearray(self._data_start)
        read_exactly(self._descriptor, memoryview(found), 0, self._name)
        manifest = self.manifest
        expected = build_header(
            manifest.stored_schema, manifest.metadata, reserved=self._data_start
        )
        if found != expected:
            raise CorruptArtifact(
                f"{self._name}: its header has changed on the disk; {self._remedy}"
            )

    def read_chunk(self, index: int) -> bytes:
        """One chunk.

        Raises:
            BadManifest: no chunk has this index.
            CorruptArtifact: its bytes have changed on the disk.
        """
        chunk = self.manifest.chunk(index)
        data = bytearray(chunk.length)
        self._read(chunk, memoryview(data))
        return bytes(data)

    def chunks(self, name: str) -> Iterator[memoryview]:
        """The stored bytes of one tensor, chunk by chunk, in one buffer that is used again.

        Raises:
            MissingTensor: no tensor of that name.
            CorruptArtifact: its bytes have changed on the disk.
        """
        buffer = memoryview(bytearray(min(CHUNK_BYTES, self.manifest.entry(name).size_bytes)))
        for chunk in self.manifest.chunks_of(name):
            part = buffer[: chunk.length]
            self._read(chunk, part)
            yield part

    def fill(self, name: str, into: memoryview, offset: int) -> None:
        """Fill a buffer from a tensor's stored bytes.

        Args:
            name: the tensor.
            into: as long as some whole chunks, or up to the tensor's end.
            offset: a multiple of `CHUNK_BYTES`.

        Raises:
            MissingTensor: no tensor of that name.
            CorruptArtifact: its bytes have changed on the disk.
        """
        first = offset // CHUNK_BYTES
        start = self._data_start + self.manifest.offsets[name] + offset
        read_exactly(self._descriptor, into, start, self._name)
        if not self._verify:
            return
        digests = self.manifest.entry(name).chunks
        for number, begin in enumerate(range(0, len(into), CHUNK_BYTES), start=first):
            if chunk_digest(into[begin : begin + CHUNK_BYTES]) != digests[number]:
                raise self._rotten(name, number)

    def peek(self, name: str, offset: int, count: int) -> bytes:
        """Some of a tensor's stored bytes from any offset, not verified: for finding places.

        Raises:
            CorruptArtifact: the tensor ends before.
        """
        if offset + count > self.manifest.entry(name).size_bytes:
            raise CorruptArtifact(
                f"{self._name}: tensor {name} ends within a block; {self._remedy}"
            )
        data = bytearray(count)
        start = self._data_start + self.manifest.offsets[name] + offset
        read_exactly(self._descriptor, memoryview(data), start, self._name)
        return bytes(data)

    def _read(self, chunk: ChunkRef, into: memoryview) -> None:
        start = self._data_start + chunk.offset_in_payload
        read_exactly(self._descriptor, into, start, self._name)
        if self._verify and chunk_digest(into) != chunk.digest:
            raise self._rotten(chunk.name, chunk.offset_in_tensor // CHUNK_BYTES)

    def _rotten(self, name: str, number: int) -> CorruptArtifact:
        return CorruptArtifact(
            f"{self._name}: chunk {number} of tensor {name} has changed on the disk; {self._remedy}"
        )

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
