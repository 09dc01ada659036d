"""A work folder has one owner, and only its owner publishes or removes it."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.checkpoints.errors import BadPath, InUse
from weft.checkpoints.partial import PartialFolder, occupied

HOLDER = """
import sys
from pathlib import Path
from weft.checkpoints.partial import PartialFolder
PartialFolder(Path(sys.argv[1])).claim(resume=True)
print("held", flush=True)
sys.stdin.read()
"""


def claimed(path: Path, *, resume: bool = False) -> PartialFolder:
    partial = PartialFolder(path)
    partial.claim(resume=resume)
    return partial


def test_published_in_one_step_over_nothing_or_an_empty_folder(tmp_path: Path) -> None:
    for name in ("nothing", "empty"):
        path = tmp_path / name
        if name == "empty":
            path.mkdir()
        partial = claimed(path)
        assert partial.made
        (partial.folder / "x").touch()
        partial.publish()
        partial.leave(remove=True)
        assert os.listdir(path) == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "nothing"]


def test_another_process_is_kept_out_until_the_owner_is_gone(tmp_path: Path) -> None:
    """However it went: the kernel drops the lock of one that is killed."""
    path = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for resume in (False, True):
            with pytest.raises(InUse, match="wait for it, or choose another output"):
                claimed(path, resume=resume)
        assert (tmp_path / "out.partial").is_dir()
        holder.kill()
    claimed(path).leave(remove=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("resume", [False, True])
def test_what_another_owner_left_is_taken_over_only_on_request(
    tmp_path: Path, resume: bool
) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "x").touch()
    if resume:
        assert not claimed(tmp_path / "out", resume=True).made
    else:
        with pytest.raises(BadPath, match="an earlier merge did not finish"):
            claimed(tmp_path / "out")
    assert os.listdir(tmp_path / "out.partial") == ["x"]


def test_half_written_files_are_no_work(tmp_path: Path) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    (folder / ".weft.json.0123456789abcdef.tmp").touch()
    partial = claimed(tmp_path / "out")
    assert partial.contents() == []
    (folder / ".model.safetensors.0123456789abcdef.tmp").touch()
    (folder / "b.tmp").touch()
    (folder / ".a.0123.tmp").touch()
    assert partial.contents() == [".a.0123.tmp", "b.tmp"]
    assert sorted(os.listdir(folder)) == [".a.0123.tmp", "b.tmp"]


def published_by_another(path: Path) -> None:
    (path.parent / "out.partial").rename(path)


def removed_by_another(path: Path) -> None:
    (path.parent / "out.partial").rmdir()


def replaced_by_another(path: Path) -> None:
    (path.parent / "out.partial").rmdir()
    (path.parent / "out.partial").mkdir()


@pytest.mark.parametrize(
    "meanwhile", [published_by_another, removed_by_another, replaced_by_another]
)
def test_a_lock_counts_only_while_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Path], None]
) -> None:
    """Between opening and locking the folder became something else."""
    path, flock, calls = tmp_path / "out", fcntl.flock, 0

    def late(descriptor: int, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            meanwhile(path)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    partial = claimed(path)
    (partial.folder / "mine").touch()
    assert calls == 2
    partial.leave(remove=True)
    assert os.listdir(tmp_path) == (["out"] if meanwhile is published_by_another else [])


def test_what_was_replaced_is_not_removed(tmp_path: Path) -> None:
    partial = claimed(tmp_path / "out")
    partial.folder.rename(tmp_path / "moved")
    partial.folder.mkdir()
    partial.leave(remove=True)
    assert sorted(os.listdir(tmp_path)) == ["moved", "out.partial"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EIO])
def test_a_file_system_that_locks_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            claimed(tmp_path / "out")
    else:
        claimed(tmp_path / "out").leave(remove=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_under_the_works_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    if kind == "file":
        (tmp_path / "out.partial").touch()
    else:
        (tmp_path / "out.partial").symlink_to("folder")
    with pytest.raises(BadPath, match=r"out\.partial: is no folder of ours; remove it"):
        claimed(tmp_path / "out", resume=True)
    assert sorted(os.listdir(tmp_path)) == ["folder", "out.partial"]


def test_occupied(tmp_path: Path) -> None:
    assert not occupied(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    assert not occupied(tmp_path / "folder")
    (tmp_path / "folder" / ".hidden").touch()
    assert occupied(tmp_path / "folder")
