"""A folder that appears under its name whole, or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weft.checkpoints.disk import disk_errors, sync_folder
from weft.checkpoints.errors import BadPath, DiskFull
from weft.checkpoints.partial import occupied


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder: what is put into the one that is yielded appears at once at the end.

    Where the context ends with an exception nothing is left behind; where the process
    dies, at most a hidden temporary folder beside it. Files in it are synced by whoever
    writes them.

    Args:
        path: the final name; nothing may be there but an empty folder.

    Raises:
        BadPath: something is there, or the parent is missing or may not be written.
        DiskFull: what was put in met no room; names the folder.
    """
    given, path = path, path.absolute()
    require_new(path)
    made = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
    with disk_errors(path):
        made.mkdir()
    try:
        yield made
        with disk_errors(path):
            sync_folder(made)
            os.rename(made, path)
            sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, DiskFull):  # met at a path within, which is gone now
            raise DiskFull(f"{given}: {str(error).partition(': ')[2]}") from error
        raise


def require_new(path: Path) -> None:
    """Check that a folder may be made; before long work, so that it is not in vain.

    Raises:
        BadPath: something else than an empty folder is there, or there is no parent.
    """
    if occupied(path.absolute()):
        raise BadPath(f"{path}: exists already; name a folder that does not, or remove it first")
