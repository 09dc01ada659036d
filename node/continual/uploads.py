"""Artifacts that are being pushed into a stream: announced, sent by chunks, then taken.

They lie in a store of their own, DIR/uploads, so that the stream's housekeeping never
meets one that is not taken yet. What a cut or a kill left is found there again, and only
what is missing is sent. An artifact that was taken is removed.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from weft.checkpoints.adapter_config import CONFIG_NAME
from weft.checkpoints.adapters import TENSORS_NAME
from weft.checkpoints.entries import PLAIN
from weft.checkpoints.errors import MissingArtifact, SchemaMismatch, WrongBase, WrongKind
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.schema import Schema, check
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store
from weft.checkpoints.upkeep import KEEP_STAGING_S
from weft.node.continual.errors import TooManyUploads
from weft.node.continual.kept import CONFIG_KEY

UPLOADS: Final = "uploads"
MOST_OPEN: Final = 64
IDLE_S: Final = 600.0
"""So long a staged upload that nobody sends to stays open; later its bytes are hashed again."""

_FOLDER_PREFIX: Final = "adapter-"
_ROOM_FOR_ADAPTERS: Final = 64 * 2**20


@dataclass(slots=True)
class _Open:
    """A staging that is open, or about to be: under its own lock, since that may take long."""

    staging: Staging | None = None
    users: int = 0
    used_at: float = 0.0
    lock: Lock = field(default_factory=Lock)

    def close(self) -> None:
        if self.staging is not None:
            self.staging.close()


class Uploads:
    """The uploads of one stream. Blocks; may be used from several threads.

    Args:
        folder: of the stream.
        base: digest of its base.
        schema: of the base.
        clock: seconds, of a monotonic clock.
    """

    def __init__(
        self,
        folder: Path,
        base: str,
        schema: Schema,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = Store(folder / UPLOADS)
        self._base, self._schema, self._clock = base, schema, clock
        self._opened: dict[str, _Open] = {}
        self._lock = Lock()
        for left in self.store.root.glob(f"{_FOLDER_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.sweep()

    def require_takeable(self, manifest: Manifest) -> None:
        """Check all that a manifest says, before a byte of it is taken.

        Raises:
            WrongBase: a delta against another base.
            WrongKind: neither model nor delta nor adapter.
            SchemaMismatch: not the base's tensors, or more than an adapter may hold.
        """
        if manifest.kind == "adapter":
            self._require_small(manifest)
            return
        if manifest.kind not in ("model", "delta"):
            raise WrongKind(
                f"an artifact of kind {manifest.kind}; a stream takes model, delta and adapter"
            )
        if (manifest.kind == "delta") is (manifest.codec == PLAIN):
            raise WrongKind(f"a {manifest.kind} cannot be coded {manifest.codec}")
        if manifest.kind == "delta" and manifest.against != self._base:
            raise WrongBase(
                f"a delta against {manifest.against}; this stream's base is {self._base}"
            )
        check(manifest.schema, self._schema, "what is pushed")

    def _require_small(self, manifest: Manifest) -> None:
        if manifest.codec != PLAIN or CONFIG_KEY not in manifest.metadata:
            raise WrongKind(f"an adapter is plain tensors with {CONFIG_KEY} in its metadata")
        most = 2 * self._schema.size_bytes + _ROOM_FOR_ADAPTERS
        if manifest.total_bytes > most:
            raise SchemaMismatch(
                f"an adapter of {manifest.total_bytes} bytes; at most {most} for this base"
            )

    def begin(self, manifest_bytes: bytes) -> Staging:
        """Open an artifact's staging, or find it open; hashes what an earlier process left.

        Raises:
            TooManyUploads: too many are under way.
            DiskFull: no room for it.
            WeftError: as `require_takeable`.
        """
        manifest = Manifest.from_bytes(manifest_bytes)
        self.require_takeable(manifest)
        with self._held(manifest.digest, announced=True) as held, held.lock:
            if held.staging is None:
                held.staging = self.store.stage(manifest_bytes)
            return held.staging

    @contextmanager
    def using(self, digest: str) -> Iterator[Staging]:
        """The staging of an announced artifact, kept open meanwhile.

        Raises:
            MissingArtifact: it was not announced, or the server has forgotten it.
        """
        with self._held(digest) as held:
            if held.staging is None:
                raise _unknown(digest)
            yield held.staging

    @contextmanager
    def _held(self, digest: str, *, announced: bool = False) -> Iterator[_Open]:
        with self._lock:
            if announced and digest not in self._opened:
                self._make_room()
                self._opened[digest] = _Open()
            if digest not in self._opened:
                raise _unknown(digest)
            held = self._opened[digest]
            held.users += 1
        try:
            yield held
        finally:
            with self._lock:
                held.users -= 1
                held.used_at = self._clock()
                if held.staging is None and held.users == 0:
                    self._opened.pop(digest, None)

    def commit(self, digest: str) -> None:
        """Make a whole upload durable; again, it changes nothing.

        Raises:
            MissingArtifact: nothing of it is here.
            IncompleteArtifact: chunks are missing.
            DiskFull: no room to sync.
        """
        if not self.store.has(digest):
            with self.using(digest) as staging:
                staging.commit()
        with self._lock:
            held = self._opened.pop(digest, None)
        if held is not None:
            held.close()

    @contextmanager
    def path(self, digest: str) -> Iterator[Path]:
        """A committed upload as a path that a stream can be offered."""
        manifest, payload = self.store.manifest(digest), self.store.payload_path(digest)
        if manifest.kind == "model":
            yield payload
        elif manifest.kind == "delta":
            yield payload.parent
        else:
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=self.store.root))
            try:
                os.link(payload, folder / TENSORS_NAME)
                (folder / CONFIG_NAME).write_text(manifest.metadata[CONFIG_KEY])
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def drop(self, digest: str) -> None:
        """Remove an upload that was taken, or that is not taken for good."""
        if self.store.has(digest):
            self.store.remove(digest)

    def sweep(self) -> None:
        """Remove what nobody has gone on with for a day."""
        with self._lock:
            if not self._opened:
                self.store.gc(keep_unpinned_s=KEEP_STAGING_S)

    def close(self) -> None:
        """Close all files; what is staged stays for another time."""
        with self._lock:
            for each in self._opened.values():
                each.close()
            self._opened.clear()

    def _make_room(self) -> None:
        idle = [(each.used_at, digest) for digest, each in self._opened.items() if each.users == 0]
        for used_at, digest in sorted(idle):
            full = len(self._opened) >= MOST_OPEN
            if full or self._clock() - used_at > IDLE_S:
                self._opened.pop(digest).close()
        if len(self._opened) >= MOST_OPEN:
            raise TooManyUploads(f"{MOST_OPEN} uploads are under way; try again later")


def _unknown(digest: str) -> MissingArtifact:
    return MissingArtifact(f"artifact {digest}: not announced here; begin again")
