"""An artifact that is being fetched: verified chunks in any order, resumable. No torch.

The folder in `staging/` survives the process; opened again, what lies there is
hashed and only what is missing is asked for. Nothing enters it unverified.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from weft.checkpoints.digest import Bytes, chunk_digest
from weft.checkpoints.disk import (
    FILE_MODE,
    disk_errors,
    read_exactly,
    require_space,
    write_bytes,
    write_fully,
)
from weft.checkpoints.errors import BadChunk, IncompleteArtifact
from weft.checkpoints.header import build_header
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.objects import MANIFEST_NAME, PAYLOAD_NAME, READ_ONLY, Folders, publish, touch

BLOCK_OF_STAT: Final = 512
FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """Takes the chunks of one artifact and commits it when all are there.

    Where the store holds the artifact already, nothing is missing and `commit`
    does nothing. Two of the same artifact may be open at once: both write the
    same bytes, and the first that commits wins for both.

    Args:
        folders: of the store.
        manifest: of the artifact.

    Raises:
        DiskFull: no room for it.
    """

    def __init__(self, folders: Folders, manifest: Manifest) -> None:
        self.manifest = manifest
        self.digest = manifest.digest
        self._folders = folders
        self._folder = folders.staged(self.digest)
        self._descriptor = -1
        self._start = 0
        self._have = bytearray(manifest.chunk_count)
        with folders.locked():
            complete = touch(folders, self.digest)
        if complete:
            self._have = bytearray(b"\x01") * manifest.chunk_count
        else:
            self._open()

    def _open(self) -> None:
        header = build_header(self.manifest.stored_schema, self.manifest.metadata)
        self._start = len(header)
        size = len(header) + self.manifest.total_bytes
        payload = self._folder / PAYLOAD_NAME
        fresh = not payload.exists()
        try:
            with disk_errors(payload, size):
                self._folder.mkdir(exist_ok=True)
                if not fresh and not payload.is_symlink():
                    payload.chmod(FILE_MODE)
                self._descriptor = os.open(payload, FLAGS, FILE_MODE)
                self._reserve(size)
                write_fully(self._descriptor, header, 0)
            write_bytes(self._folder / MANIFEST_NAME, self.manifest.to_bytes())
            if not fresh:
                self._find_chunks()
        except BaseException:
            self.close()
            if fresh:
                shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _reserve(self, size: int) -> None:
        found = os.fstat(self._descriptor)
        if found.st_size > size:
            os.ftruncate(self._descriptor, size)
        require_space(self._folder, size - min(size, found.st_blocks * BLOCK_OF_STAT))
        os.posix_fallocate(self._descriptor, 0, size)

    def _find_chunks(self) -> None:
        """Hash what an earlier process left."""
        for index in range(self.manifest.chunk_count):
            chunk = self.manifest.chunk(index)
            data = memoryview(bytearray(chunk.length))
            read_exactly(
                self._descriptor, data, self._start + chunk.offset_in_payload, str(self._folder)
            )
            self._have[index] = chunk_digest(data) == chunk.digest

    def missing(self) -> list[tuple[int, int]]:
        """Half-open ranges of the chunk indices that are still to come, ascending."""
        ranges, stop = [], 0
        while (start := self._have.find(0, stop)) >= 0:
            stop = self._have.find(1, start)
            stop = len(self._have) if stop < 0 else stop
            ranges.append((start, stop))
        return ranges

    @property
    def missing_chunks(self) -> int:
        """How many chunks are still to come."""
        return self._have.count(0)

    def write_chunk(self, index: int, data: Bytes) -> None:
        """Verify one chunk and write it; one that is there already changes nothing.

        Raises:
            BadManifest: no chunk has this index.
            BadChunk: its length or digest is not what the manifest says; nothing is written.
            DiskFull: no room.
        """
        chunk = self.manifest.chunk(index)
        if len(data) != chunk.length:
            raise BadChunk(
                f"artifact {self.digest}: chunk {index} has {len(data)} bytes, "
                f"{chunk.length} expected"
            )
        if chunk_digest(data) != chunk.digest:
            raise BadChunk(
                f"artifact {self.digest}: chunk {index} (tensor {chunk.name}) does not match its "
                "digest; ask another holder"
            )
        if self._have[index]:
            return
        with disk_errors(self._folder / PAYLOAD_NAME, chunk.length):
            write_fully(self._descriptor, data, self._start + chunk.offset_in_payload)
        self._have[index] = 1

    def commit(self) -> str:
        """Make it an object of the store, durably; returns its digest.

        Raises:
            IncompleteArtifact: chunks are missing.
            DiskFull: no room to sync.
        """
        if self.missing_chunks:
            raise IncompleteArtifact(
                f"artifact {self.digest}: {self.missing_chunks} of {self.manifest.chunk_count} "
                "chunks are missing; fetch them first"
            )
        if self._descriptor < 0:
            return self.digest
        with disk_errors(self._folder / PAYLOAD_NAME):
            os.fchmod(self._descriptor, READ_ONLY)
            os.fsync(self._descriptor)
            _make_read_only(self._folder / MANIFEST_NAME)
        self.close()
        publish(self._folders, self._folder, self.digest)
        return self.digest

    def discard(self) -> None:
        """Give up: remove what was staged."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Close the file and leave what is staged for another time."""
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


def _make_read_only(path: Path) -> None:
    """Where another staging of the same artifact committed first, the file is gone already."""
    with suppress(FileNotFoundError):
        os.chmod(path, READ_ONLY)
