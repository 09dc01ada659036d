"""A disk that is really full: a small tmpfs, where that may be mounted."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints.crafted import contents
from tests.checkpoints.stores import fetch, put_bytes
from weft.checkpoints.artifacts import open_model, put_delta, put_model
from weft.checkpoints.errors import DiskFull
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_bytes, write_checkpoint

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB and 60 files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=60", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"not run: no tmpfs may be mounted here ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def tensor(mebibytes: float) -> dict[str, torch.Tensor]:
    return {"w": torch.randint(0, 256, (int(mebibytes * MIB),), dtype=torch.uint8)}


def test_writer_says_what_is_needed_and_what_is_free(disk: Path) -> None:
    with pytest.raises(DiskFull, match=rf"{disk}: 5\d* bytes are needed and 4\d* are free"):
        write_checkpoint(disk / "m.safetensors", tensor(5))
    assert os.listdir(disk) == []
    write_checkpoint(disk / "m.safetensors", tensor(3))
    with pytest.raises(DiskFull):
        write_checkpoint(disk / "m.safetensors", tensor(2))
    with open_checkpoint(disk) as reader:
        assert reader.schema.size_bytes == 3 * MIB
    assert os.listdir(disk) == ["m.safetensors"]


def test_store_takes_what_fits_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    source = Store(tmp_path / "source")
    store = Store(disk / "store")
    kept = put_bytes(store, 0, {"x": 2 * MIB})
    big = put_bytes(source, 1, {"x": 3 * MIB})
    for _ in range(3):
        with pytest.raises(DiskFull, match="make room and try again"):
            fetch(source, store, big)
        with pytest.raises(DiskFull):
            put_model(store, MemoryReader(tensor(3)))
    assert os.listdir(store.root / "staging") == []
    assert [(v.digest, v.fault) for v in store.verify()] == [(kept, "")]
    store.remove(kept)
    assert fetch(source, store, big) == big


def test_full_while_encoding(disk: Path) -> None:
    """Room for the estimate, taken by another before the bytes are written."""
    store = Store(disk / "store")

    class Greedy(MemoryReader):
        def fill(self, *arguments: object) -> None:
            if not (disk / "greedy").exists():
                (disk / "greedy").write_bytes(bytes(3 * MIB))
            super().fill(*arguments)  # type: ignore[arg-type]

    with pytest.raises(DiskFull, match="No space left"):
        put_delta(store, Greedy(tensor(2)), None, None, "lossless")
    assert os.listdir(store.root / "staging") == []
    (disk / "greedy").unlink()
    reader = MemoryReader(tensor(2))
    with open_model(store, put_model(store, reader)) as found:
        assert contents(found) == contents(reader)


def test_no_more_files(disk: Path) -> None:
    store = Store(disk / "store")
    digest = put_bytes(store, 0, {"x": 10})
    while True:
        try:
            (disk / f"file-{len(os.listdir(disk))}").touch()
        except OSError:
            break
    for attempt in (
        lambda: store.pin(digest, "me"),
        lambda: put_bytes(store, 1, {"x": 10}),
        lambda: write_bytes(disk / "small", b"x"),
    ):
        with pytest.raises(DiskFull):
            attempt()
    assert store.pins() == []
    assert [v.fault for v in store.verify()] == [""]
    for path in disk.glob("file-*"):
        path.unlink()
    store.pin(digest, "me")
    assert os.listdir(store.root / "staging") == []
