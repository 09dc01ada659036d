"""A gate's command ends with whoever asked it: interrupted, stopped for good, or killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from weft.node.continual.errors import BadStream
from weft.node.continual.gate import score

GATE = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
with open("PIDS.new", "w") as pids:
    pids.write(f"{os.getpid()} {child.pid}")
os.rename("PIDS.new", "PIDS")
time.sleep(600)
"""

ASKS = """
import os, sys, threading
from pathlib import Path
from weft.node.continual.gate import score
threading.Thread(target=score, args=(sys.argv[1], Path(".")), daemon=True).start()
sys.stdin.read(1)
os._exit(0)
"""
"""As `weft stream serve` asks, in a thread, and as it leaves."""


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Where the gate says which processes it is; they are ended in any case."""
    path = tmp_path / "pids"
    yield path
    for pid in running(path):
        os.kill(pid, signal.SIGKILL)


def gate(pids: Path) -> str:
    script = pids.with_name("gate.py")
    script.write_text(GATE.replace("PIDS", str(pids)))
    return f"{sys.executable} -I -S {script} {{checkpoint}}"


def running(pids: Path) -> list[int]:
    """Those of the gate's processes that have not ended."""
    found = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
    return [pid for pid in found if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait(until: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.timeout(60)
def test_a_call_that_is_interrupted_ends_the_command(pids: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def when_it_runs() -> None:
        wait(pids.exists, "the gate runs")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    other = threading.Thread(target=when_it_runs)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            score(gate(pids), pids.parent)
    finally:
        other.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(pids.read_text().split()) == 2
    wait(lambda: not running(pids), "the gate and its child end")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_a_process_that_ends_hard_ends_the_command(how: str, pids: Path) -> None:
    asking = [sys.executable, "-c", ASKS, gate(pids)]
    with subprocess.Popen(asking, stdin=subprocess.PIPE) as process:
        try:
            wait(pids.exists, "the gate runs")
            assert len(running(pids)) == 2
            if how == "leaves":
                process.communicate(b"x")
        finally:
            process.kill()
    wait(lambda: not running(pids), "the gate and its child end")


def test_what_a_gate_leaves_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    (tmp_path / "gate.sh").write_text("sleep 600 &\necho 0.5\n")
    assert score(f"sh {tmp_path / 'gate.sh'} {{checkpoint}}", tmp_path) == 0.5


@pytest.mark.parametrize(("status", "told"), [(3, "3"), (137, "-9"), (255, "255")])
def test_how_it_ended(status: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadStream, match=f"ended with {told}: "):
        score(f"sh -c 'exit {status}' {{checkpoint}}", tmp_path)
