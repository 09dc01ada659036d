"""A child process and what it took: processor, clock, memory, and what others took beside it.

The kernel counts the memory of whoever starts a process as that process's own peak, so a
benchmark that measures peaks must be small itself: it imports no torch.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A child that ended with another status than zero; says what it wrote last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one process took.

    Attributes:
        cpu: seconds of processor, user and system, its own children included.
        wall: seconds by the clock.
        peak_mib: the most memory that was resident.
        others: share of all cores that other processes held meanwhile.
        output: what it wrote on standard output.
    """

    cpu: float
    wall: float
    peak_mib: float
    others: float
    output: str = ""


def measured(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end.

    What earlier processes wrote is on the disk before it starts.

    Raises:
        Failed: it ended with another status than zero.
    """
    os.sync()
    busy, started = _busy(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        for file in (out, err):
            file.seek(0)
        if child.returncode != 0:
            raise Failed(f"{command[0]}: exit {child.returncode}: {err.read()[-1500:]}")
        cpu = used.ru_utime + used.ru_stime
        others = (_busy() - busy - cpu) / (wall * (os.cpu_count() or 1))
        return Usage(
            cpu=cpu,
            wall=wall,
            peak_mib=used.ru_maxrss / 1024,
            others=max(0.0, others),
            output=out.read(),
        )


def _busy() -> float:
    """Seconds that all cores together were not idle; zero where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return 0.0
    counts = [int(field) for field in fields[:8]]
    idle = counts[3] + counts[4]  # the latter waits for a disk
    return (sum(counts) - idle) / TICKS
