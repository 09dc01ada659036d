"""The user's own judge: a command that scores a checkpoint folder, more is better.

The last line that it prints is a number, or a JSON object with one under `score`. It runs
behind `weft.node.command_process`, so neither it nor what it starts outlives whoever asks,
not even a process that is killed.
"""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from weft.node.continual.errors import BadStream

CHECKPOINT: Final = "{checkpoint}"
SHOWN: Final = 300
GRACE_S: Final = 1.0
"""Between asking an interrupted command to end and killing it."""

_SHELL_SIGNALS: Final = 128


def score(command: str, checkpoint: Path) -> float:
    """What the command says of a checkpoint.

    Args:
        command: with `{checkpoint}` where the folder's path goes; no shell reads it.
        checkpoint: a model folder.

    Raises:
        BadStream: it cannot be started, fails, or prints no finite number.
    """
    words = [word.replace(CHECKPOINT, str(checkpoint)) for word in shlex.split(command)]
    if shutil.which(words[0]) is None:
        raise BadStream(f"gate {command!r}: cannot be started: no program {words[0]!r}")
    try:
        done = _run(words)
    except OSError as error:
        raise BadStream(f"gate {command!r}: cannot be started: {error}") from error
    if done.returncode:
        raise BadStream(
            f"gate {command!r}: ended with {done.returncode}: {done.stderr.strip()[-SHOWN:]}"
        )
    lines = done.stdout.strip().splitlines()
    found = _number(lines[-1]) if lines else math.nan
    if not math.isfinite(found):
        last = lines[-1][:SHOWN] if lines else ""
        raise BadStream(
            f"gate {command!r}: its last line is {last!r}; a number is expected, or"
            ' {"score": number}'
        )
    return found


def _run(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; when this call or this process ends first, so does it."""
    between = (sys.executable, "-P", "-m", "weft.node.command_process", str(GRACE_S), "--")
    # A pipe of Popen's own would be closed by `communicate` at once.
    reading, holding = os.pipe()
    with open(holding, "wb") as held, open(reading, "rb") as stdin:
        process = subprocess.Popen(
            [*between, *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate()
            finally:
                held.close()  # which ends the command, where it has not ended
                process.wait()
    return subprocess.CompletedProcess(words, _status(process.returncode), out, err)


def _status(told: int) -> int:
    """As `subprocess` says it: the process between says 128 + N where signal N ended it."""
    number = told - _SHELL_SIGNALS
    return -number if number in signal.valid_signals() else told


def require_command(command: str) -> None:
    """Check what can be checked before it is needed.

    Raises:
        BadStream: it does not name the checkpoint, or has half a quotation.
    """
    if not command:
        return
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadStream(f"gate {command!r}: {error}") from error
    if not any(CHECKPOINT in word for word in words):
        raise BadStream(f"gate {command!r}: says nowhere {CHECKPOINT}, where the path would go")


def _number(line: str) -> float:
    try:
        found = json.loads(line)
    except ValueError:
        return math.nan
    if isinstance(found, dict):
        found = found.get("score")
    return (
        float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan
    )
