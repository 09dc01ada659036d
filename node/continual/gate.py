"""The user's own judge: a command that scores a checkpoint folder, more is better.

The last line that it prints is a number, or a JSON object with one under `score`.
"""

import json
import math
import shlex
import subprocess
from pathlib import Path
from typing import Final

from weft.node.continual.errors import BadStream

CHECKPOINT: Final = "{checkpoint}"
SHOWN: Final = 300


def score(command: str, checkpoint: Path) -> float:
    """What the command says of a checkpoint.

    Args:
        command: with `{checkpoint}` where the folder's path goes; no shell reads it.
        checkpoint: a model folder.

    Raises:
        BadStream: it cannot be started, fails, or prints no finite number.
    """
    words = [word.replace(CHECKPOINT, str(checkpoint)) for word in shlex.split(command)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
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
