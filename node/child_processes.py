"""What the daemon knows about the processes that it starts: logs, signals, ends."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

_TAIL_BYTES: Final = 8192
_SHELL_SIGNALS: Final = 128
"""A shell, and our own `command_process`, say 128 + N for a child that signal N ended."""


@contextmanager
def output_to(log_file: Path | None) -> Iterator[IO[bytes] | int]:
    """Where a child's standard output and error go: a file's end, or our stderr."""
    if log_file is None:
        yield sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
        return
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        yield output


def signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal a child that leads a group, and all in it; nothing where it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def last_line(log_file: Path | None) -> str:
    """The last line with anything in it that was printed; "" where there is none."""
    if log_file is None or not log_file.exists():
        return ""
    with log_file.open("rb") as output:
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = output.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def obituary(who: str, status: int, log_file: Path | None) -> str:
    """One line on how a child ended: its status or signal, and its own last words."""
    number = -status if status < 0 else status - _SHELL_SIGNALS
    if status < 0 or number in {int(known) for known in signal.Signals}:
        how = f"was ended by {_signal_name(number)}"
        how += " (out of memory? see the kernel's log)" if number == signal.SIGKILL else ""
    else:
        how = f"ended with status {status}"
    words = last_line(log_file)
    where = f"; see {log_file}" if log_file is not None else ""
    return f"{who} {how}{f'; it said last: {words}' if words else ''}{where}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
