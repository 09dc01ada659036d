"""Runs a user's command and takes it along: `python -m weft.node.command_process GRACE_S -- ...`.

A training command must not outlive the daemon that wants its result, not even one
that is killed. So this small process stands between: it starts the command in a
session of its own and waits; when its standard input closes, because the daemon
closed it or died, it asks the command and all its children to end, and kills them
after the grace. It imports no torch and ends with the command's own status
(128 + N where signal N ended it).
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main(arguments: list[str]) -> int:
    """Run the command after `--`; returns the exit status."""
    grace_s, command = float(arguments[0]), arguments[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_watch, args=(process, grace_s), daemon=True).start()
    status = process.wait()
    _signal_group(process, signal.SIGKILL)  # what the command left behind
    return status if status >= 0 else 128 - status


def _watch(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    while os.read(0, 4096):
        pass
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    # The group's number cannot belong to anyone else before its last process is gone.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
