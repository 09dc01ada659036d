"""Where the objects of a store lie, and how one becomes an object. No torch.

    ROOT/format                                  one line: which format this is
    ROOT/lock                                    held while objects appear or are collected
    ROOT/objects/<aa>/<digest>/manifest.json     read-only, complete
    ROOT/objects/<aa>/<digest>/payload.safetensors
    ROOT/staging/<digest>/                       being fetched; survives a crash
    ROOT/staging/.put-<random>/                  being made; garbage after a crash
    ROOT/staging/.trash-<random>/                being removed
    ROOT/pins/<digest>.<owner>                   empty files

An object appears by one rename of its whole folder, after everything in it was
synced: who sees its name sees all of it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weft.checkpoints.digest import is_digest, require_digest
from weft.checkpoints.disk import disk_errors, sync_folder, write_bytes
from weft.checkpoints.errors import NotAStore

FORMAT: Final = "weft-store-1\n"
FORMAT_NAME: Final = "format"
LOCK_NAME: Final = "lock"
MANIFEST_NAME: Final = "manifest.json"
PAYLOAD_NAME: Final = "payload.safetensors"
PUT_PREFIX: Final = ".put-"
TRASH_PREFIX: Final = ".trash-"
READ_ONLY: Final = 0o444


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one store."""

    root: Path

    @property
    def objects(self) -> Path:
        """Complete objects."""
        return self.root / "objects"

    @property
    def staging(self) -> Path:
        """What is not yet, or no longer, an object."""
        return self.root / "staging"

    @property
    def pins(self) -> Path:
        """Who wants which object kept."""
        return self.root / "pins"

    def object(self, digest: str) -> Path:
        """The folder of an object, whether it exists or not.

        Raises:
            BadDigest: not a digest.
        """
        return self.objects / require_digest(digest)[:2] / digest

    def staged(self, digest: str) -> Path:
        """The folder of an object that is being fetched.

        Raises:
            BadDigest: not a digest.
        """
        return self.staging / require_digest(digest)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep objects from appearing and from being collected, in all processes.

        Held for a few renames at a time. Not to be taken twice in one thread.
        """
        descriptor = os.open(self.root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def digests(self) -> Iterator[str]:
        """Digests of all objects, sorted; anything else that lies there is passed over."""
        for home in sorted(os.scandir(self.objects), key=lambda entry: entry.name):
            if home.is_dir(follow_symlinks=False):
                names = sorted(
                    entry.name
                    for entry in os.scandir(home.path)
                    if entry.is_dir(follow_symlinks=False)
                )
                yield from (name for name in names if is_digest(name) and name[:2] == home.name)


def prepare(folders: Folders, *, create: bool) -> None:
    """Check that the root is a store of our format; make it one where that is asked for.

    Raises:
        NotAStore: another format, or a folder of something else.
        DiskFull, BadPath: it cannot be made.
    """
    marker = folders.root / FORMAT_NAME
    if marker.is_file():
        found = marker.read_text(errors="replace")
        if found != FORMAT:
            raise NotAStore(
                f"{folders.root}: a store of format {found.strip()[:40]!r}; "
                f"this version opens {FORMAT.strip()}"
            )
    elif create:
        _make(folders.root, marker)
    else:
        raise NotAStore(f"{folders.root}: no store (no file named {FORMAT_NAME}); name its folder")
    with disk_errors(folders.root):
        for folder in (folders.objects, folders.staging, folders.pins):
            folder.mkdir(exist_ok=True)
        sync_folder(folders.root)


def _make(root: Path, marker: Path) -> None:
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        foreign = [name for name in os.listdir(root) if not name.startswith(f".{FORMAT_NAME}.")]
    if foreign:
        raise NotAStore(
            f"{root}: holds {min(foreign)} and is no store; name an empty or a new folder"
        )
    write_bytes(marker, FORMAT.encode())


def publish(folders: Folders, made: Path, digest: str) -> None:
    """Turn a folder whose files are complete and synced into an object.

    Where the object is there already, the folder is removed: equal digests mean
    equal bytes; and the object counts as young again.
    """
    target = folders.object(digest)
    with disk_errors(target), folders.locked():
        if not touch(folders, digest):
            sync_folder(made)
            target.parent.mkdir(exist_ok=True)
            os.rename(made, target)
            sync_folder(target.parent)
            sync_folder(folders.objects)
            return
    shutil.rmtree(made, ignore_errors=True)


def touch(folders: Folders, digest: str) -> bool:
    """Whether the object is there; if so it counts as young again. Needs the lock."""
    try:
        os.utime(folders.object(digest))
    except FileNotFoundError:
        return False
    return True
