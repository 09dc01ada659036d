"""The store: immutable artifacts in a folder, each known by its digest. No torch.

    store = Store(folder)
    with store.stage(manifest_bytes) as staging:     # fetched from elsewhere
        for start, stop in staging.missing(): ...
        digest = staging.commit()
    store.pin(digest, "run:demo")

An object is there whole or not at all, whatever happens to the process. Bytes are
verified when they enter and, unless told otherwise, whenever they are read. All
functions block; a store may be used from several threads, and by one daemon.
`artifacts.py` puts tensors in and takes them out.
"""

import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Final

from weft.checkpoints.deposit import Deposit
from weft.checkpoints.digest import digest_of
from weft.checkpoints.disk import open_for_reading, read_exactly
from weft.checkpoints.entries import PLAIN
from weft.checkpoints.errors import CorruptArtifact, MissingArtifact, MissingCheckpoint
from weft.checkpoints.manifest import MAX_MANIFEST_BYTES, Kind, Manifest
from weft.checkpoints.objects import MANIFEST_NAME, PAYLOAD_NAME, Folders, prepare
from weft.checkpoints.payload import REMEDY, Payload
from weft.checkpoints.pins import Pins
from weft.checkpoints.schema import Schema
from weft.checkpoints.staging import Staging
from weft.checkpoints.upkeep import (
    KEEP_STAGING_S,
    KEEP_UNPINNED_S,
    Collected,
    Usage,
    Verdict,
    collect,
    judge,
    move_to_trash,
    usage,
)

KEPT_MANIFESTS: Final = 16


class Store:
    """A folder of artifacts.

    Args:
        root: the folder; made where it does not exist.
        create: whether it may be made.
        clock: seconds since the epoch, compared with the times of files.

    Raises:
        NotAStore: a folder of something else, or a store of another format.
    """

    def __init__(
        self, root: Path | str, *, create: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self.root = Path(root)
        self._folders = Folders(self.root)
        prepare(self._folders, create=create)
        self._pins = Pins(self._folders.pins)
        self._clock = clock
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._manifests_lock = Lock()

    def has(self, digest: str) -> bool:
        """Whether the artifact is here, whole."""
        return self._folders.object(digest).is_dir()

    def digests(self) -> list[str]:
        """All artifacts, sorted."""
        return list(self._folders.digests())

    def payload_path(self, digest: str) -> Path:
        """The file of an artifact's stored bytes; of plain tensors, a safetensors file.

        Raises:
            MissingArtifact: it is not here.
        """
        self._require(digest)
        return self._folders.object(digest) / PAYLOAD_NAME

    def manifest(self, digest: str) -> Manifest:
        """The manifest, checked against the digest when it is first read.

        Raises:
            MissingArtifact: it is not here.
            CorruptArtifact: its bytes have changed on the disk.
        """
        with self._manifests_lock:
            kept = self._manifests.get(digest)
            if kept is not None:
                self._manifests.move_to_end(digest)
        if kept is not None and self.has(digest):
            return kept
        manifest = Manifest.from_bytes(self.manifest_bytes(digest))
        with self._manifests_lock:
            self._manifests[digest] = manifest
            while len(self._manifests) > KEPT_MANIFESTS:
                self._manifests.popitem(last=False)
        return manifest

    def manifest_bytes(self, digest: str) -> bytes:
        """The canonical manifest, checked against the digest.

        Raises:
            MissingArtifact: it is not here.
            CorruptArtifact: its bytes have changed on the disk.
        """
        self._require(digest)
        data = _read_small(self._folders.object(digest) / MANIFEST_NAME, digest)
        if digest_of(data) != digest:
            raise CorruptArtifact(
                f"artifact {digest}: its manifest has changed on the disk; {REMEDY}"
            )
        return data

    def payload(self, digest: str, *, verify: bool = True) -> Payload:
        """Open an artifact's stored bytes.

        Raises:
            MissingArtifact: it is not here.
            CorruptArtifact: its manifest or the size of its file has changed on the disk.
        """
        manifest = self.manifest(digest)
        return Payload(self._folders.object(digest) / PAYLOAD_NAME, manifest, verify=verify)

    def read_chunk(self, digest: str, index: int) -> bytes:
        """One chunk, verified.

        Raises:
            MissingArtifact: the artifact is not here.
            BadManifest: no chunk has this index.
            CorruptArtifact: its bytes have changed on the disk.
        """
        with self.payload(digest) as payload:
            return payload.read_chunk(index)

    def stage(self, manifest_bytes: bytes) -> Staging:
        """Begin to fetch an artifact, or go on where an earlier process stopped.

        Going on hashes what is there. The caller compares `Staging.digest` with
        the digest that it asked for.

        Raises:
            BadManifest, TooLarge: the bytes are no manifest, or beyond the limits.
            DiskFull: no room for it.
        """
        return Staging(self._folders, Manifest.from_bytes(manifest_bytes))

    def deposit(
        self,
        schema: Schema,
        *,
        kind: Kind,
        against: str | None = None,
        codec: str = PLAIN,
        metadata: Mapping[str, str] | None = None,
        expect_bytes: int = 0,
    ) -> Deposit:
        """Begin to put an artifact that is made here; see `Deposit`."""
        return Deposit(
            self._folders,
            schema,
            kind=kind,
            against=against,
            codec=codec,
            metadata=metadata,
            expect_bytes=expect_bytes,
        )

    def pin(self, digest: str, owner: str) -> None:
        """Keep an artifact, and what it is against, until this owner unpins it. Durable.

        A pin may come before its artifact: who pins first and then looks or
        fetches cannot lose it to `gc`.

        Raises:
            BadDigest: not a digest.
            InvalidInput: an owner's name that is empty or too long.
        """
        with self._folders.locked():
            self._pins.add(digest, owner)

    def unpin(self, digest: str, owner: str) -> None:
        """Take back one owner's pin; where there is none nothing changes. Durable."""
        self._pins.remove(digest, owner)

    def pins(self) -> list[tuple[str, str]]:
        """All pins as (digest, owner), sorted."""
        return list(self._pins)

    def remove(self, digest: str) -> None:
        """Remove an artifact whatever is pinned, for one whose bytes have rotted.

        Raises:
            MissingArtifact: it is not here.
        """
        self._require(digest)
        with self._folders.locked():
            trash = move_to_trash(self._folders, digest)
        shutil.rmtree(trash)

    def gc(
        self, *, keep_staging_s: float = KEEP_STAGING_S, keep_unpinned_s: float = KEEP_UNPINNED_S
    ) -> Collected:
        """Remove what nobody keeps: unpinned objects and abandoned staging.

        Kept are pinned objects, young objects, and what either is against,
        however long the chain.

        Args:
            keep_staging_s: staging that was written within this time stays.
            keep_unpinned_s: objects that came within this time stay.

        Raises:
            CorruptArtifact: the manifest of a kept object cannot be read, so
                what it is against is not known; nothing was removed.
        """
        return collect(
            self._folders,
            self._pins,
            self.manifest,
            self._clock(),
            keep_staging_s=keep_staging_s,
            keep_unpinned_s=keep_unpinned_s,
        )

    def du(self) -> Usage:
        """What the store takes of its disk."""
        return usage(self._folders, self._pins)

    def verify(self, digests: Iterable[str] | None = None) -> Iterator[Verdict]:
        """Hash every byte of every object, one after the other.

        Args:
            digests: these objects only.

        Yields:
            One verdict an object.
        """
        for digest in self.digests() if digests is None else digests:
            yield judge(self._folders, digest, self.manifest_bytes)

    def _require(self, digest: str) -> None:
        if not self.has(digest):
            raise MissingArtifact(f"{self.root}: no artifact {digest}; fetch it first")


def _read_small(path: Path, digest: str) -> bytes:
    try:
        descriptor, size = open_for_reading(path, follow=False)
    except MissingCheckpoint:
        raise CorruptArtifact(f"artifact {digest}: {path.name} is gone; {REMEDY}") from None
    try:
        if size > MAX_MANIFEST_BYTES:
            raise CorruptArtifact(f"artifact {digest}: {path.name} has {size} bytes; {REMEDY}")
        data = bytearray(size)
        read_exactly(descriptor, memoryview(data), 0, f"artifact {digest}")
    finally:
        os.close(descriptor)
    return bytes(data)
