"""Who wants which artifact kept: one empty file a pin, durable. No torch."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from weft.checkpoints.digest import DIGEST_BYTES, is_digest, require_digest
from weft.checkpoints.disk import disk_errors, sync_folder
from weft.errors import InvalidInput

MAX_FILE_NAME: Final = 255
SPLIT: Final = 2 * DIGEST_BYTES


class Pins:
    """The pins of a store: pairs of digest and owner; an owner is any short text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, digest: str, owner: str) -> None:
        """Pin durably; a pin that exists changes nothing.

        Raises:
            BadDigest: not a digest.
            InvalidInput: an owner's name that is empty or too long.
            DiskFull: no room for the file's name.
        """
        path = self._path(digest, owner)
        with disk_errors(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            sync_folder(self._folder)

    def remove(self, digest: str, owner: str) -> None:
        """Unpin durably; a pin that does not exist changes nothing."""
        with suppress(FileNotFoundError):
            self._path(digest, owner).unlink()
            sync_folder(self._folder)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All pins, sorted; files that are none are passed over."""
        for name in sorted(os.listdir(self._folder)):
            digest, point, owner = name[:SPLIT], name[SPLIT : SPLIT + 1], name[SPLIT + 1 :]
            if is_digest(digest) and point == "." and owner:
                yield digest, unquote(owner)

    def _path(self, digest: str, owner: str) -> Path:
        name = f"{require_digest(digest)}.{quote(owner, safe='')}"
        if not owner or len(name) > MAX_FILE_NAME:
            raise InvalidInput(
                f"owner of a pin {owner[:40]!r}: 1 to {MAX_FILE_NAME - SPLIT - 1} letters expected"
            )
        return self._folder / name
