"""A coordinator as a process of its own, run by the command that users type."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.wire import Enrolment
from weft.protocol.identity import Role


class CoordinatorProcess:
    """A federation's folder with a coordinator in it.

    Args:
        folder: everything lies below it.
        keys: of coordinator.toml, beyond those that are always there.
    """

    def __init__(self, folder: Path, **keys: object) -> None:
        self.folder = folder
        self.enrol = Enrolment(folder)
        self.credentials = self.enrol("coordinator", Role.COORDINATOR).folder
        self.operator = self.enrol("olga", Role.OPERATOR).folder
        self.keys: dict[str, object] = {
            "listen": "127.0.0.1:0",
            "credentials": str(self.credentials),
            "data": "data",
            "metrics": "",
            "revoked": "ca/revoked.json",
            **keys,
        }
        self.log = folder / "coordinator.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    @property
    def config(self) -> Path:
        return self.folder / "coordinator.toml"

    def begin(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in self.keys.items()]
        self.config.write_text("\n".join(lines) + "\n")
        self.log.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "weft.cli", "coordinator", "-c", str(self.config)]
            # What the tests' own process was told must not reach this one.
            environment = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_")}
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        return self.process

    def start(self) -> None:
        """Start the process and wait until it listens; later starts keep the port."""
        process = self.begin()
        deadline = time.monotonic() + 60
        while not (found := self.events("listening")):
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.address = str(found[0]["address"])
        self.keys["listen"] = self.address

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of an event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def ended(self, timeout_s: float = 30.0) -> tuple[int, str]:
        """Exit code and last line of a process that ends by itself."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        return code, self.log.read_text().splitlines()[-1]

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 5.0) -> int:
        """Send a signal and wait; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
