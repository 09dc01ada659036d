"""A stream's server as a process of its own, run by the command that users type."""

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


class StreamProcess:
    """`weft stream serve` on loopback.

    Args:
        stream: the stream's folder.
        folder: of certificates and the log.
        options: beyond those for the address and the certificate.
    """

    def __init__(self, stream: Path, folder: Path, *options: str) -> None:
        self.stream, self.options = stream, options
        self.enrol = Enrolment(folder / "federation")
        self.credentials = self.enrol("stream").folder
        self.operator = self.enrol("olga", Role.OPERATOR).folder
        self.log = folder / "stream.log"
        self.listen = "127.0.0.1:0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens; later starts keep the port."""
        self.log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "weft.cli", "stream", "serve", str(self.stream)]
        command += ["--listen", self.listen, "--credentials", str(self.credentials), *self.options]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        deadline = time.monotonic() + 60
        while not (found := self.events("listening")):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.listen = str(found[0]["address"])

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of an event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 6.0) -> int:
        """Send a signal and wait; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
