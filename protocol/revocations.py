"""The serial numbers that no longer count, as the authority's file says."""

from pathlib import Path

import structlog

from weft.errors import WeftError
from weft.protocol.authority import read_revoked

log = structlog.get_logger(__name__)


class Revocations:
    """Keeps what `revoked.json` says; what counts meanwhile is what was read last.

    Args:
        path: the file; None: nothing is ever revoked.

    Raises:
        BadAuthority: the file cannot be read. Whoever wants revocation must not run
            without it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = self._stamp()
        self._serials = frozenset[str]() if path is None else read_revoked(path)

    @property
    def serials(self) -> frozenset[str]:
        """Of all certificates that are revoked; no disk is touched."""
        return self._serials

    def refresh(self) -> None:
        """Read the file again where it changed; blocks.

        A file that has become unreadable takes nothing back: the last word stands,
        and the log says so.
        """
        stamp = self._stamp()
        if self._path is None or stamp == self._seen:
            return
        self._seen = stamp
        try:
            found = read_revoked(self._path)
        except WeftError as error:
            log.error("revocations unreadable; the last ones stand", reason=str(error))
            return
        if found != self._serials:
            log.info("revocations", count=len(found))
        self._serials = found

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes with the file: it is replaced, never written in place."""
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError:
            return (-1,)
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)
