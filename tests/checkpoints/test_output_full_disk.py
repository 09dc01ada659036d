"""An output on a disk that is really full: a small tmpfs, where that may be mounted."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints.outputs import PLAN, around, write_output
from weft.checkpoints.errors import DiskFull
from weft.checkpoints.output import OutputFolder
from weft.checkpoints.reader import MemoryReader

MIB = 2**20
MODEL = {name: torch.full((MIB,), number, dtype=torch.uint8) for number, name in enumerate("abc")}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"not run: no tmpfs may be mounted here ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_while_another_fills_the_disk(path: Path, *, resume: bool) -> None:
    reader = MemoryReader(MODEL)
    with OutputFolder(path, reader.schema, shard_bytes=MIB, plan=PLAN, resume=resume) as output:
        output.write("a", reader.blocks("a"))
        (path.parent / "greedy").write_bytes(bytes(3 * MIB))
        for name in "bc":
            output.write(name, reader.blocks(name))


def test_too_little_room_is_told_before_anything_is_written(disk: Path) -> None:
    with pytest.raises(DiskFull, match=r"\d+ bytes are needed and \d+ are free: \d+ are missing"):
        write_output(disk / "out", {**MODEL, "d": torch.zeros(3 * MIB, dtype=torch.uint8)})
    assert os.listdir(disk) == []


@pytest.mark.parametrize("resume", [False, True])
def test_room_that_is_taken_meanwhile(disk: Path, resume: bool) -> None:
    out = disk / "out"
    with pytest.raises(DiskFull, match="make room and try again"):
        write_while_another_fills_the_disk(out, resume=resume)
    assert around(out) == (["out.partial"] if resume else [])
    if resume:
        with pytest.raises(DiskFull, match="are missing"):
            write_output(out, MODEL, shard_bytes=MIB, resume=True)
    (disk / "greedy").unlink()
    output, remaining = write_output(out, MODEL, shard_bytes=MIB, resume=resume)
    assert len(remaining) == (2 if resume else 3)
    assert output.damaged == ()
    assert around(out) == ["out"]
