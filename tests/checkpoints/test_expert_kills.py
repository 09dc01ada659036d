"""A merge with experts survives SIGKILL at any call: a set is absent or whole, and is made.

The folders lie in memory where that is possible: no time is spent on syncing.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.experts import merge, write_models
from tests.checkpoints.outputs import tree
from tests.support.repository import ROOT
from weft.merging.methods.consensus import Consensus

MEMORY = Path("/dev/shm")
LEAST_POINTS = 25


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


def test_killed_before_every_call_that_touches_the_disk(folder: Path) -> None:
    write_models(folder)
    merge(folder, Consensus(), names=["a", "b"])
    whole = tree(folder / "experts")
    assert sorted(whole) == ["a.safetensors", "b.safetensors", "vector.safetensors"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.checkpoints.expert_kill_child", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=1,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(point: int, *, resume: bool) -> str:
            asked = ["k-out", "k-experts", point, resume]
            process.stdin.write(f"{json.dumps(asked)}\n")  # type: ignore[union-attr]
            return process.stdout.readline().strip()  # type: ignore[union-attr]

        assert ask(0, resume=False) == "ended 0"
        shutil.rmtree(folder / "k-experts")
        killed, point = 0, 1
        while ask(point, resume=True) == "killed":
            killed += 1
            found = folder / "k-experts"
            assert not found.exists() or tree(found) == whole
            assert ask(0, resume=True) == "ended 0"
            assert tree(found) == whole
            left = sorted(path.name for path in folder.glob("k-*"))
            assert left == ["k-experts", "k-out"]
            shutil.rmtree(found)
            point += 1
        process.stdin.close()
    assert killed >= LEAST_POINTS
