"""One node a data folder, and a lock that dies with its holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weft.node.errors import FolderInUse
from weft.node.lock import FolderLock

HOLDER = """
import sys, time
from pathlib import Path
from weft.node.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_node_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new" / "data"):
        with pytest.raises(FolderInUse) as refused:
            FolderLock(tmp_path / "new" / "data")
        folder = tmp_path / "new" / "data"
        assert str(refused.value).startswith(
            f"another weft process (pid {os.getpid()}) uses {folder}; "
        )
    FolderLock(folder).release()


def test_releasing_twice_does_nothing(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.release()
    with FolderLock(tmp_path):
        lock.release()
        with pytest.raises(FolderInUse):
            FolderLock(tmp_path)


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUse, match=rf"\(pid {holder.pid}\)"):
        FolderLock(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    FolderLock(tmp_path).release()


def test_a_lock_that_cannot_be_signed_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: whoever tries again in the same process is not locked out by itself."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            FolderLock(tmp_path)
    FolderLock(tmp_path).release()
