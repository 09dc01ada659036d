"""Processes are started, watched and stopped; none is left behind."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from weft.simulations.demo import daemons
from weft.simulations.demo.daemons import Daemon, Fleet, fleet, free_port
from weft.simulations.errors import DaemonDied

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print('ready', flush=True); time.sleep(60)"
)


def python(fleet: Fleet, name: str, code: str, folder: Path) -> Daemon:
    """A daemon that runs a piece of Python instead of a command of weft."""
    import subprocess
    import sys

    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=output, stderr=output, start_new_session=True
        )
    daemon = Daemon(name=name, log=log, process=process)
    fleet.daemons.append(daemon)
    return daemon


def wait_for_line(daemon: Daemon, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in daemon.tail() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert line in daemon.tail()


def test_start_runs_weft_and_keeps_what_it_says(tmp_path: Path) -> None:
    started = Fleet()
    daemon = started.start("a", ["--version"], tmp_path / "a.log")
    started.wait(("a",), 30)
    assert daemon.exit_code == 0
    assert daemon.tail()[0].startswith("weft ")
    started.require_alive()


def test_a_mistake_of_a_daemon_is_told(tmp_path: Path) -> None:
    started = Fleet()
    started.start("node-1", ["nod"], tmp_path / "node-1.log")
    started.wait(("node-1",), 30)
    with pytest.raises(DaemonDied, match=r"node-1 ended with exit code 2; its log is .*node-1.log"):
        started.require_alive()
    dead = started.died()
    assert dead is not None
    assert "Did you mean 'node'" in dead.tail()[-1]


def test_a_killed_daemon_is_told(tmp_path: Path) -> None:
    started = Fleet()
    daemon = python(started, "node-2", SLEEP, tmp_path)
    os.kill(daemon.process.pid, signal.SIGKILL)
    started.wait(("node-2",), 10)
    with pytest.raises(DaemonDied, match="node-2 was killed by signal 9"):
        started.require_alive()


def test_all_are_stopped_when_the_block_ends(tmp_path: Path) -> None:
    both: list[Daemon] = []

    def fail() -> None:
        with fleet() as started:
            both.extend(python(started, name, SLEEP, tmp_path) for name in "ab")
            raise RuntimeError("the demo failed")

    with pytest.raises(RuntimeError, match="the demo failed"):
        fail()
    assert [daemon.exit_code for daemon in both] == [-signal.SIGTERM] * 2


def test_who_does_not_stop_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "GRACE_S", 0.3)
    started = Fleet()
    daemon = python(started, "stubborn", STUBBORN, tmp_path)
    wait_for_line(daemon, "ready")
    (child,) = psutil.Process(daemon.process.pid).children()
    started.stop()
    assert daemon.exit_code == -signal.SIGKILL
    child.wait(5)
    assert not child.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_block_as_ctrl_c_does(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    started = []

    def play() -> None:
        with fleet() as daemons:
            started.append(python(daemons, "a", SLEEP, tmp_path))
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        play()
    assert started[0].exit_code is not None
    assert signal.getsignal(number) == before


def test_free_port_is_free() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
        assert probe.getsockname()[1] > 0
