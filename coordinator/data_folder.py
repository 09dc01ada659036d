"""The data folder: one coordinator at a time, and it remembers which database is its.

    data/lock            held for life; the kernel drops it when its holder dies
    data/identity.json   of the database that belongs to this folder
    data/runs.sqlite     the database, unless `database` names another
    data/store/          bases of runs

Without the second file a database that went missing would be begun anew, and
every run with it.
"""

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from weft.checkpoints.disk import write_bytes
from weft.coordinator.errors import DatabaseDamaged, DataFolderInUse
from weft.errors import InvalidInput

_FORMAT: Final = 1


class DataFolder:
    """A coordinator's folder, locked until `release`.

    Args:
        path: made where it does not exist, for nobody else to read.

    Raises:
        DataFolderInUse: another process holds it; names its pid.
        InvalidInput: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", flags, 0o600)
        except OSError as error:
            raise InvalidInput(f"data = {path}: cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise DataFolderInUse(
                f"another coordinator (pid {holder}) uses {path}; stop it, or give this one a "
                "data folder of its own"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    @property
    def store(self) -> Path:
        """Where the artifacts are."""
        return self.path / "store"

    @property
    def identity(self) -> str | None:
        """Of the database that belongs here; None in a new folder.

        Raises:
            DatabaseDamaged: the file is there and cannot be read.
        """
        path = self.path / "identity.json"
        try:
            found: Any = json.loads(path.read_bytes())
            if found["format"] != _FORMAT:
                raise DatabaseDamaged(
                    f"{path}: format {found['format']}, this weft knows {_FORMAT}; use the "
                    "version of weft that wrote it"
                )
            return str(found["database"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DatabaseDamaged(
                f"{path}: cannot be read; restore it from a backup, or remove it if the database "
                "is surely the right one"
            ) from error

    def remember(self, database: str) -> None:
        """Write down the identity of the database, durably."""
        if self.identity != database:
            text = json.dumps({"format": _FORMAT, "database": database})
            write_bytes(self.path / "identity.json", text.encode() + b"\n")

    def release(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
