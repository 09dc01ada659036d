"""One node, one data folder: a lock that the kernel drops when its holder dies."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from weft.node.errors import FolderInUse

LOCK_NAME = "lock"


class FolderLock:
    """Holds a data folder for this process until `release`.

    flock(2) on `DIR/lock`: a killed holder leaves no stale lock behind. The file
    stays (removing it would let two processes lock two files of one name), and
    holds the pid of its last holder, for the message only. Not for network file
    systems that do not implement flock.

        with FolderLock(Path("data")):
            ...

    Args:
        folder: made where it does not exist.

    Raises:
        FolderInUse: another process holds it; names its pid.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise FolderInUse(
                f"another weft process (pid {holder}) uses {folder}; "
                "stop it, or name another folder"
            ) from None
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
