"""A merge of files survives SIGKILL at any instant: OUT is absent or whole, and work goes on.

The output alone is swept in `test_output_kills.py`; here it is a whole merge, with steps
that read all models before a byte is written.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.checkpoints.merge_kill_child import merge_files
from tests.checkpoints.merges import some_models
from tests.checkpoints.outputs import around, tree
from tests.checkpoints.test_output_kills import (
    MEMORY,
    SYSTEM_CALLS,
    Runner,
    killed_by_strace,
)
from tests.support.repository import ROOT

SAMPLED = 24
CHAINS = 4
LEAST_POINTS = 100


class MergeRunner(Runner):
    """Merges in forks of a process that has paid its imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "models"
        base, models = some_models()
        for name, tensors in (("base", base), *zip("abc", models, strict=True)):
            (self.base / name).mkdir(parents=True)
            save_file(tensors, self.base / name / "model.safetensors", {"format": "pt"})
        (self.base / "base" / "config.json").write_text("{}")
        self.digest = merge_files(folder / "whole", self.base, resume=False).digest
        self.whole = tree(folder / "whole")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.checkpoints.merge_kill_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1,
            text=True,
            start_new_session=True,
        )

    def check_that_it_goes_on(self, path: Path) -> None:
        """A later merge finishes what was begun, to the same bytes, and leaves nothing."""
        assert merge_files(path, self.base, resume=True).digest == self.digest
        assert tree(path) == self.whole
        assert around(path) == ["out"]


@pytest.fixture
def runner() -> Iterator[MergeRunner]:
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="weft-merge-kills-", dir=place))
    made = MergeRunner(folder)
    try:
        yield made
    finally:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()
        shutil.rmtree(folder)


def kill(runner: MergeRunner, point: int) -> str:
    """Kill a merge there, look at what is left, and go on with it."""
    path = runner.fresh(f"{point}")
    said = runner.ask(path, point, resume=False)
    runner.check(path)
    if said == "killed":
        runner.check_that_it_goes_on(path)
    return said


def points(runner: MergeRunner) -> int:
    """How many calls a merge makes that touch the disk, by halving."""
    low, high = LEAST_POINTS, 16 * LEAST_POINTS
    while high - low > 1:
        middle = (low + high) // 2
        path = runner.fresh(f"count-{middle}")
        said = runner.ask(path, middle, resume=False)
        low, high = (middle, high) if said == "killed" else (low, middle)
        shutil.rmtree(path.parent)
    return low


def test_some_of_the_calls_that_touch_the_disk(runner: MergeRunner) -> None:
    count = points(runner)
    chosen = {*random.Random(3).sample(range(1, count), SAMPLED), *range(count - 3, count + 1)}
    assert all(kill(runner, point) == "killed" for point in sorted(chosen))
    assert kill(runner, count + 1) == "ended 0"
    print(f"\n{len(chosen)} of {count} kill points")


def test_killed_again_and_again(runner: MergeRunner) -> None:
    """Merges that go on and are killed at random, until one lives."""
    chance, kills = random.Random(7), 0
    for chain in range(CHAINS):
        path, said = runner.fresh(f"{chain}"), "killed"
        while said == "killed":
            said = runner.ask(path, chance.randint(10, LEAST_POINTS + 20), resume=True)
            runner.check(path)
            kills += said == "killed"
        assert said == "ended 0"
        assert tree(path) == runner.whole
        assert around(path) == ["out"]
    print(f"\n{kills} kills in {CHAINS} merges")


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_call_that_touches_the_disk(runner: MergeRunner) -> None:
    """Killed before each of them in turn, and gone on with."""
    point = 1
    while kill(runner, point) == "killed":
        point += 1
    print(f"\n{point - 1} kill points")
    assert point > LEAST_POINTS


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_system_call(runner: MergeRunner) -> None:
    """As the kernel sees them: strace kills at the n-th of each kind, for every n."""
    if shutil.which("strace") is None:
        pytest.skip("not run: there is no strace")
    found: dict[str, int] = {}
    for call in SYSTEM_CALLS:
        number, said = 1, "killed"
        while said == "killed":
            path = runner.fresh(f"{call}-{number}")
            said = killed_by_strace(runner, path, call, number)
            runner.check(path)
            runner.check_that_it_goes_on(path)
            shutil.rmtree(path.parent)
            number += 1
        assert said == "ended 0"
        found[call] = number - 2
    print(f"\n{sum(found.values())} kill points: { ({k: n for k, n in found.items() if n}) }")
    assert sum(found.values()) >= LEAST_POINTS
