"""A folder that is made under another name and appears whole: claimed, published or removed.

`PATH.partial` is the work folder of one process at a time. It is locked itself, with
flock(2) on the folder: no lock file is left in what it becomes, and the kernel drops the
lock when its holder dies. The lock counts on one machine; between machines that share a
file system only the making of the folder is exclusive. No torch.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from weft.checkpoints.disk import sync_folder
from weft.checkpoints.errors import BadPath, InUse

SUFFIX: Final = ".partial"
TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
"""How `DurableFile` names what it has not finished."""

WITHOUT_LOCKS: Final = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EBADF})
"""What file systems say that lock no folders; there nobody watches over two merges at once."""


def occupied(path: Path) -> bool:
    """Whether a folder stands at a path and holds anything.

    Raises:
        BadPath: a folder cannot appear under that name: something else is there, or
            the name is none.
    """
    if path.name in ("", ".."):
        raise BadPath(f"{path}: is no name of a new folder; give one")
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise BadPath(f"{path}: {path.parent} is no folder; make it first") from None
        return False
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no folder"
        raise BadPath(f"{path}: exists and is {kind}; choose another, or remove it")
    if os.path.ismount(path):
        raise BadPath(f"{path}: a mounted disk cannot be replaced; name a folder on it")
    return bool(os.listdir(path))


class PartialFolder:
    """The work folder of an output.

    Args:
        path: the output; see `occupied` for what may stand there.

    Attributes:
        folder: the work folder, beside the output.
        made: whether `claim` made it, or found it empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent / f"{path.name}{SUFFIX}"
        self.made = False
        self._descriptor = -1
        self._keep = False

    def claim(self, *, resume: bool) -> None:
        """Make the work folder, or take over one that a process left; lock it.

        One that is empty holds no work and may be taken over by anybody.

        Raises:
            InUse: another process writes it.
            BadPath: one is there, and it was not asked to go on; or it cannot be made.
        """
        while not self._try_claim():
            pass  # whoever held it published or removed it just now
        if not self.made and not resume:
            self.leave(remove=False)
            raise BadPath(
                f"{self.folder}: an earlier merge did not finish; "
                "go on with it (--resume), or remove it"
            )

    def _try_claim(self) -> bool:
        try:
            os.mkdir(self.folder)
            self.made = True
        except FileExistsError:
            self.made = False
        try:
            found = self._lock_what_is_there()
        except InUse:
            self.leave(remove=False)
            raise
        except BaseException:
            self.leave(remove=False)
            if self.made:
                with suppress(OSError):
                    os.rmdir(self.folder)
            raise
        if found is None:
            self.leave(remove=False)
            return False
        self.made = self.made or all(TEMPORARY.fullmatch(name) for name in found)
        return True

    def _lock_what_is_there(self) -> list[str] | None:
        """What the folder holds, once it is locked; None where it just went."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.folder, flags)
            self._lock()
            return os.listdir(self.folder) if self._is_ours() else None
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise BadPath(f"{self.folder}: is no folder of ours; remove it") from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"{self.path}: another process is writing it (in {self.folder}); "
                "wait for it, or choose another output"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise

    def _is_ours(self) -> bool:
        """Whether what we hold still stands under its name."""
        if self._descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.folder))
        except FileNotFoundError:
            return False

    def contents(self) -> list[str]:
        """What the folder holds, sorted; files that a killed process left half are removed."""
        names = sorted(os.listdir(self.folder))
        for name in names:
            if TEMPORARY.fullmatch(name):
                os.unlink(self.folder / name)
        return [name for name in names if not TEMPORARY.fullmatch(name)]

    def publish(self) -> None:
        """Give the folder its final name, durably; its files must be synced.

        Raises:
            BadPath: something took the name meanwhile; the folder is kept.
        """
        sync_folder(self.folder)
        try:
            os.rename(self.folder, self.path)
        except OSError as error:
            self._keep = True
            raise BadPath(
                f"{self.path}: what was made cannot take this name ({error.strerror}); it is whole "
                f"in {self.folder}: free the name and go on with --resume, or move it yourself"
            ) from error
        sync_folder(self.path.parent)

    def leave(self, *, remove: bool) -> None:
        """Let the folder go; twice is allowed.

        Args:
            remove: first remove it, where it is still ours and not kept on purpose.
        """
        try:
            if remove and not self._keep and self._is_ours():
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
