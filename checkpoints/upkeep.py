"""Keeping a store in order: what it takes, what may go, what has rotted. No torch."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weft.checkpoints.digest import is_digest
from weft.checkpoints.disk import free_bytes
from weft.checkpoints.errors import MissingArtifact
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.objects import PAYLOAD_NAME, PUT_PREFIX, TRASH_PREFIX, Folders
from weft.checkpoints.payload import Payload
from weft.errors import Corrupt

KEEP_STAGING_S: Final = 24 * 3600.0
KEEP_UNPINNED_S: Final = 60.0
"""Time to pin what was just put or fetched before `collect` may take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a store takes of its disk."""

    objects: int
    object_bytes: int
    pins: int
    staged: int
    staged_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What `gc` removed."""

    objects: int
    staged: int
    freed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found out about one object; `fault` is empty where all is well."""

    digest: str
    size_bytes: int
    fault: str = ""


def collect(
    folders: Folders,
    pins: Iterable[tuple[str, str]],
    manifest_of: Callable[[str], Manifest],
    now: float,
    *,
    keep_staging_s: float,
    keep_unpinned_s: float,
) -> Collected:
    """Remove unpinned objects and abandoned staging; see `Store.gc`.

    Raises:
        CorruptArtifact: the manifest of a kept object cannot be read; nothing was removed.
    """
    with folders.locked():
        kept = _reachable(folders, pins, manifest_of, now - keep_unpinned_s)
        doomed = [digest for digest in folders.digests() if digest not in kept]
        trash = [move_to_trash(folders, digest) for digest in doomed]
    stale = list(_stale(folders, now - keep_staging_s))
    freed = sum(_folder_bytes(path) for path in (*trash, *stale))
    leftover = set(folders.staging.glob(f"{TRASH_PREFIX}*"))
    for path in (*leftover, *stale):
        shutil.rmtree(path, ignore_errors=True)
    return Collected(objects=len(trash), staged=len(stale), freed_bytes=freed)


def move_to_trash(folders: Folders, digest: str) -> Path:
    """Take an object away in one step; what is left is to remove the trash. Needs the lock."""
    trash = folders.staging / f"{TRASH_PREFIX}{secrets.token_hex(8)}"
    os.rename(folders.object(digest), trash)
    return trash


def usage(folders: Folders, pins: Iterable[tuple[str, str]]) -> Usage:
    """What a store takes of its disk."""
    sizes = [_folder_bytes(folders.object(digest)) for digest in folders.digests()]
    staged = [Path(entry.path) for entry in os.scandir(folders.staging)]
    return Usage(
        objects=len(sizes),
        object_bytes=sum(sizes),
        pins=sum(1 for _ in pins),
        staged=len(staged),
        staged_bytes=sum(_folder_bytes(path) for path in staged),
        free_bytes=free_bytes(folders.root),
    )


def judge(folders: Folders, digest: str, manifest_bytes_of: Callable[[str], bytes]) -> Verdict:
    """Hash every byte of one object."""
    size = _folder_bytes(folders.object(digest))
    try:
        manifest = Manifest.from_bytes(manifest_bytes_of(digest))
        with Payload(folders.object(digest) / PAYLOAD_NAME, manifest) as payload:
            payload.check_header()
            for entry in manifest.tensors:
                for _ in payload.chunks(entry.name):
                    pass
    except (Corrupt, MissingArtifact) as error:
        return Verdict(digest=digest, size_bytes=size, fault=str(error))
    return Verdict(digest=digest, size_bytes=size)


def _reachable(
    folders: Folders,
    pins: Iterable[tuple[str, str]],
    manifest_of: Callable[[str], Manifest],
    young_from: float,
) -> set[str]:
    """What is pinned or young, and what any of it is against."""
    present = set(folders.digests())
    queue = [digest for digest, _ in pins if digest in present]
    queue += [digest for digest in present if folders.object(digest).stat().st_mtime > young_from]
    kept: set[str] = set()
    while queue:
        digest = queue.pop()
        if digest in kept:
            continue
        kept.add(digest)
        against = manifest_of(digest).against
        if against is not None and against in present:
            queue.append(against)
    return kept


def _stale(folders: Folders, written_before: float) -> Iterator[Path]:
    """Staging that nobody has written to since."""
    for entry in os.scandir(folders.staging):
        ours = is_digest(entry.name) or entry.name.startswith(PUT_PREFIX)
        if ours and entry.is_dir(follow_symlinks=False):
            times = [entry.stat().st_mtime, *(found.st_mtime for found in _stats(entry.path))]
            if max(times) <= written_before:
                yield Path(entry.path)


def _folder_bytes(folder: Path) -> int:
    """Bytes of the files of one folder."""
    return sum(found.st_size for found in _stats(folder))


def _stats(folder: Path | str) -> Iterator[os.stat_result]:
    """What lies in a folder; what goes away while we look counts as nothing."""
    try:
        for entry in os.scandir(folder):
            yield entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return
