"""Objects appear by one rename; the lock holds between threads and processes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.checkpoints.stores import put_bytes
from weft.checkpoints.errors import BadDigest
from weft.checkpoints.objects import Folders, prepare, publish, touch
from weft.checkpoints.store import Store

DIGEST = "ab" * 32


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "store")
    prepare(made, create=True)
    return made


def made_folder(folders: Folders, name: str, text: str) -> Path:
    folder = folders.staging / name
    folder.mkdir()
    (folder / "manifest.json").write_text(text)
    return folder


def test_first_that_is_published_wins(folders: Folders) -> None:
    publish(folders, made_folder(folders, "one", "1"), DIGEST)
    publish(folders, made_folder(folders, "two", "2"), DIGEST)
    assert (folders.object(DIGEST) / "manifest.json").read_text() == "1"
    assert os.listdir(folders.staging) == []
    assert list(folders.digests()) == [DIGEST]


def test_folders_are_synced_around_the_rename(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_folder(folders, "one", "1")
    calls: list[str] = []
    rename = os.rename

    def synced(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def renamed(source: Path, target: Path) -> None:
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    publish(folders, made, DIGEST)
    assert calls == ["one", "rename", "ab", "objects"]


def test_touch(folders: Folders) -> None:
    assert not touch(folders, DIGEST)
    publish(folders, made_folder(folders, "one", "1"), DIGEST)
    os.utime(folders.object(DIGEST), (1, 1))
    assert touch(folders, DIGEST)
    assert folders.object(DIGEST).stat().st_mtime > 10**9


def test_names_that_are_no_digests(folders: Folders) -> None:
    for call in (folders.object, folders.staged):
        with pytest.raises(BadDigest):
            call("../../etc")


def test_nothing_is_published_while_the_lock_is_held(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folders = Folders(tmp_path / "store")
    worker = threading.Thread(target=put_bytes, args=(store, 0, {"x": 3}))
    child = f"from weft.checkpoints.store import Store; Store({str(store.root)!r}).gc()"
    with folders.locked():
        worker.start()
        collector = subprocess.Popen([sys.executable, "-c", child])
        worker.join(0.3)
        assert worker.is_alive()
        assert collector.poll() is None
        assert store.digests() == []
    worker.join(10)
    assert collector.wait(30) == 0
    assert len(store.digests()) == 1
