"""The few ways in which checkpoints touch the disk: exact, durable, or an error.

A file written here appears under its name whole and synced, or not at all:
temporary name in the same folder, fsync, atomic rename, fsync of the folder.
All functions block.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from weft.checkpoints.errors import BadPath, DiskFull, MalformedFile, MissingCheckpoint

Bytes: TypeAlias = bytes | bytearray | memoryview

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
UNREACHABLE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR}
    | {errno.ENAMETOOLONG, errno.ELOOP}
)
FILE_MODE: Final = 0o644


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Say in our words why a path cannot be looked at.

    Raises:
        MissingCheckpoint: there is no such file or folder.
        BadPath: a loop of links, a name too long, no right to see it.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MissingCheckpoint(f"{path}: no such file or folder") from None
    except OSError as error:
        if error.errno not in UNREACHABLE:
            raise
        raise BadPath(f"{path}: cannot be read: {error.strerror}") from error


def open_for_reading(path: Path, *, follow: bool = True) -> tuple[int, int]:
    """Open a regular file; returns its descriptor and its size in bytes.

    Args:
        path: the file. Opening never waits, whatever it is.
        follow: whether it may be a symbolic link.

    Raises:
        MissingCheckpoint: there is no such file.
        BadPath: it is no regular file, or may not be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise MissingCheckpoint(f"{path}: no such file") from None
    except OSError as error:
        if error.errno not in UNREACHABLE:
            raise
        raise BadPath(f"{path}: cannot be read: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise BadPath(f"{path}: not a regular file")
    return descriptor, found.st_size


def read_exactly(descriptor: int, into: memoryview, offset: int, where: str) -> None:
    """Fill a buffer of bytes from an offset of a file.

    Raises:
        MalformedFile: the file ends before.
    """
    filled = 0
    while filled < len(into):
        count = os.preadv(descriptor, [into[filled:]], offset + filled)
        if count == 0:
            raise MalformedFile(
                f"{where}: ends at byte {offset + filled}, {offset + len(into)} expected; "
                "it was cut short while open"
            )
        filled += count


def read_whole(path: Path, limit: int) -> bytes:
    """A small file.

    Args:
        path: the file.
        limit: more bytes are refused unread.

    Raises:
        MissingCheckpoint: there is no such file.
        BadPath: it is no regular file, or may not be read.
        MalformedFile: it is larger than the limit.
    """
    descriptor, size = open_for_reading(path)
    try:
        if size > limit:
            raise MalformedFile(f"{path}: {size} bytes are beyond the limit of {limit}")
        data = bytearray(size)
        read_exactly(descriptor, memoryview(data), 0, str(path))
    finally:
        os.close(descriptor)
    return bytes(data)


def write_fully(descriptor: int, data: Bytes, offset: int) -> None:
    """Write all bytes at an offset of a file."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)


def sync_folder(path: Path) -> None:
    """Make what was created, renamed or removed in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Room that is left for us on the file system of a path."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def require_space(folder: Path, needed: int) -> None:
    """Check for room before anything is written.

    Raises:
        DiskFull: fewer bytes are free than needed.
    """
    free = free_bytes(folder)
    if free < needed:
        raise DiskFull(
            f"{folder}: {needed} bytes are needed and {free} are free; make room and try again"
        )


@contextmanager
def disk_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Say in our words what the system says while a path is written.

    Raises:
        DiskFull: no space, no quota, or beyond the limit of a file's size.
        BadPath: the path cannot be written. Other errors of the disk pass
            through as they are: nobody should go on after them.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            want = f"{needed} bytes are needed, " if needed else ""
            raise DiskFull(
                f"{path}: {want}{_free_words(path)}: {error.strerror}; make room and try again"
            ) from error
        if error.errno in UNREACHABLE:
            raise BadPath(f"{path}: cannot be written: {error.strerror}") from error
        raise


def _free_words(path: Path) -> str:
    try:
        return f"{free_bytes(path.parent)} are free"
    except OSError:
        return "what is free is unknown"


class DurableFile:
    """A file that appears under its name when the context ends well, whole and synced.

    Where the context ends with an exception nothing is left behind; where the
    process dies, at most a hidden temporary file beside it.

    Args:
        path: the final name; an existing file is replaced in one step.
        reserve_bytes: room to reserve at once, so that a full disk is met first.

    Raises:
        DiskFull: no room; on entering or while writing.
        BadPath: the folder is missing or may not be written.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = 0) -> None:
        self.path = path
        self._reserve = reserve_bytes
        self._temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
        self._descriptor = -1

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with disk_errors(self.path, self._reserve):
            self._descriptor = os.open(self._temporary, flags, FILE_MODE)
            try:
                self._reserve_space()
            except BaseException:
                self._discard()
                raise
        return self

    def _reserve_space(self) -> None:
        if self._reserve:
            require_space(self.path.parent, self._reserve)
            os.posix_fallocate(self._descriptor, 0, self._reserve)

    def write_at(self, data: Bytes, offset: int) -> None:
        """Write all bytes at an offset."""
        with disk_errors(self.path, self._reserve):
            write_fully(self._descriptor, data, offset)

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
            with disk_errors(self.path, self._reserve):
                os.fsync(self._descriptor)
                os.replace(self._temporary, self.path)
                sync_folder(self.path.parent)
        except BaseException:
            self._discard()
            raise
        os.close(self._descriptor)

    def _discard(self) -> None:
        os.close(self._descriptor)
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)


def write_bytes(path: Path, data: Bytes) -> None:
    """Write a small file durably, in one step.

    Raises:
        DiskFull: no room.
        BadPath: the folder is missing or may not be written.
    """
    with DurableFile(path) as file:
        file.write_at(data, 0)
