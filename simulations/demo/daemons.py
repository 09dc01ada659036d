"""The demo's processes: started, watched, and stopped whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from weft.simulations.errors import DaemonDied

GRACE_S = 6.0
TAIL_LINES = 12


@dataclass(slots=True, kw_only=True)
class Daemon:
    """One `weft` process in a session of its own, its output in a file."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @staticmethod
    def start(name: str, arguments: list[str], log: Path) -> "Daemon":
        """Start `weft` with arguments; one thread for arithmetic, as many run side by side."""
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "weft.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the demo's, which stops them in order
                env=os.environ | one_thread,
            )
        return Daemon(name=name, log=log, process=process)

    @property
    def exit_code(self) -> int | None:
        """None while it lives."""
        return self.process.poll()

    def tail(self) -> list[str]:
        """The last lines that it wrote."""
        try:
            return self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        except OSError:
            return []

    def kill(self) -> None:
        """End it and what it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(slots=True)
class Fleet:
    """All daemons of a demo."""

    daemons: list[Daemon] = field(default_factory=list)

    def start(self, name: str, arguments: list[str], log: Path) -> Daemon:
        """Start one more."""
        daemon = Daemon.start(name, arguments, log)
        self.daemons.append(daemon)
        return daemon

    def died(self) -> Daemon | None:
        """A daemon that ended with an error, if there is one."""
        return next((daemon for daemon in self.daemons if daemon.exit_code), None)

    def require_alive(self) -> None:
        """Complain about a daemon that ended with an error.

        Raises:
            DaemonDied: names it, its exit code and its log.
        """
        dead = self.died()
        if dead is not None:
            code = dead.exit_code or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise DaemonDied(f"{dead.name} {how}; its log is {dead.log}")

    def wait(self, names: tuple[str, ...], timeout_s: float) -> None:
        """Wait until the named daemons have ended by themselves, or the time is over."""
        deadline = time.monotonic() + timeout_s
        for daemon in self.daemons:
            if daemon.name in names:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.process.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Ask all to stop; kill those that have not within the grace."""
        living = [daemon for daemon in self.daemons if daemon.exit_code is None]
        for daemon in living:
            daemon.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for daemon in living:
            try:
                daemon.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                daemon.kill()


@contextmanager
def fleet() -> Iterator[Fleet]:
    """A fleet that is stopped when the block ends, however it ends.

    SIGTERM and SIGHUP end the block as Ctrl-C does.
    """
    started = Fleet()
    before = {one: signal.signal(one, _interrupt) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield started
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        started.stop()


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
