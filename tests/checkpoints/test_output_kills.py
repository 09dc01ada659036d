"""An output survives SIGKILL at any instant: PATH is absent or whole, and work goes on.

What a kill leaves behind does not depend on the kind of file system, so the outputs lie
in memory where that is possible: no time is spent on syncing.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.outputs import around, companions, tree, write_output
from tests.support.repository import ROOT

MEMORY = Path("/dev/shm")
LEAST_POINTS = 60
CHAINS = 25
PATIENCE_S = 20.0
SYSTEM_CALLS = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2"),
    *("write", "pwrite64", "pwritev", "fsync", "fdatasync", "truncate", "ftruncate", "fallocate"),
    *("unlink", "unlinkat", "rmdir", "link", "linkat", "chmod", "fchmod", "fchmodat", "utimensat"),
)
"""All that could change a folder; what a machine does not have is passed over."""


class Runner:
    """Runs outputs in forks of a process that has paid its imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        write_output(folder / "whole", sidecars=companions(self.base))
        self.whole = tree(folder / "whole")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.checkpoints.output_kill_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1,
            text=True,
            start_new_session=True,
        )

    def ask(self, path: Path, point: int, *, resume: bool, traced: bool = False) -> str:
        """Start a fork; the next line that it makes the process say."""
        assert self.process.stdin is not None
        asked = [str(path), str(self.base), point, resume, traced]
        self.process.stdin.write(f"{json.dumps(asked)}\n")
        return self.hear()

    def hear(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def check(self, path: Path) -> None:
        """PATH is not there, or whole and right."""
        assert not path.exists() or tree(path) == self.whole

    def check_that_it_goes_on(self, path: Path) -> None:
        """A later process finishes what was begun, to the same bytes, and leaves nothing."""
        output, _ = write_output(path, resume=True, sidecars=companions(self.base))
        assert output.damaged == ()
        assert tree(path) == self.whole
        assert around(path) == ["out"]

    def fresh(self, name: str) -> Path:
        """A path for an output in a folder of its own."""
        (self.folder / name).mkdir()
        return self.folder / name / "out"


@pytest.fixture
def runner() -> Iterator[Runner]:
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="weft-output-kills-", dir=place))
    made = Runner(folder)
    try:
        yield made
    finally:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()
        shutil.rmtree(folder)


def test_every_call_that_touches_the_disk(runner: Runner) -> None:
    """Killed before each of them in turn, and gone on with."""
    unpublished = 0
    point = 1
    while (said := runner.ask(path := runner.fresh(f"{point}"), point, resume=False)) == "killed":
        runner.check(path)
        unpublished += not path.exists()
        runner.check_that_it_goes_on(path)
        point += 1
    assert said == "ended 0"
    assert tree(path) == runner.whole
    print(f"\n{point - 1} kill points, {unpublished} of them before the model had its name")
    assert LEAST_POINTS < unpublished < point - 1


def test_every_call_of_a_process_that_goes_on(runner: Runner) -> None:
    """The one that goes on is killed as well, before each of its calls in turn."""
    chance = random.Random(5)
    kills = 0
    for first in sorted(chance.sample(range(5, LEAST_POINTS), 3)):
        point, said = 1, "killed"
        while said == "killed":
            path = runner.fresh(f"{first}-{point}")
            assert runner.ask(path, first, resume=False) == "killed"
            said = runner.ask(path, point, resume=True)
            runner.check(path)
            runner.check_that_it_goes_on(path)
            kills += 1 + (said == "killed")
            point += 1
        assert said == "ended 0"
    print(f"\n{kills} kills")


def test_killed_again_and_again(runner: Runner) -> None:
    """Processes that go on and are killed at random, until one lives."""
    chance = random.Random(7)
    kills = 0
    for chain in range(CHAINS):
        path, said = runner.fresh(f"{chain}"), "killed"
        while said == "killed":
            said = runner.ask(path, chance.randint(1, 2 * LEAST_POINTS), resume=True)
            runner.check(path)
            kills += said == "killed"
        assert said == "ended 0"
        assert tree(path) == runner.whole
        assert around(path) == ["out"]
    print(f"\n{kills} kills in {CHAINS} outputs")


@pytest.mark.faults
def test_every_system_call(runner: Runner) -> None:
    """As the kernel sees them: strace kills at the n-th of each kind, for every n."""
    if shutil.which("strace") is None:
        pytest.skip("not run: there is no strace")
    points: dict[str, int] = {}
    for call in SYSTEM_CALLS:
        number, said = 1, "killed"
        while said == "killed":
            path = runner.fresh(f"{call}-{number}")
            said = killed_by_strace(runner, path, call, number)
            runner.check(path)
            runner.check_that_it_goes_on(path)
            number += 1
        assert said == "ended 0"
        points[call] = number - 2
    print(f"\n{sum(points.values())} kill points: { ({k: n for k, n in points.items() if n}) }")
    assert sum(points.values()) >= LEAST_POINTS
    assert points["fsync"] >= 10


def killed_by_strace(runner: Runner, path: Path, call: str, number: int) -> str:
    """Write an output that dies as it enters a system call; what the process says at the end."""
    pid = int(runner.ask(path, 0, resume=False, traced=True).removeprefix("born "))
    wait_for(pid, "State:\tT")
    tracer = subprocess.Popen(
        [
            *("strace", "-q", "-p", str(pid), "-o", os.devnull, "-e", f"trace=?{call}"),
            *("-e", f"inject=?{call}:signal=KILL:when={number}"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(pid, f"TracerPid:\t{tracer.pid}", tracer)
    finally:
        os.kill(pid, signal.SIGCONT)
    said = runner.hear()
    _, errors = tracer.communicate()
    assert tracer.returncode in (0, 1), errors
    return said


def wait_for(pid: int, line: str, tracer: "subprocess.Popen[str] | None" = None) -> None:
    """Until the kernel says this of a process; skips the test where it may not be traced."""
    until = time.monotonic() + PATIENCE_S
    while line not in Path(f"/proc/{pid}/status").read_text():
        if tracer is not None and tracer.poll() is not None:
            pytest.skip(f"not run: strace may not trace here ({tracer.communicate()[1].strip()})")
        assert time.monotonic() < until, f"process {pid}: no {line!r}"
        time.sleep(0.001)
