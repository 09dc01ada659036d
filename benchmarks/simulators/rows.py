"""Runs the scripts of this folder and looks at what they take."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
from peers.environments import TORCH, Tool, python_of

from simulators.task import RESULT, STARTED

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"

GOSSIPY = Tool("gossipy", ("gossipy-dfl==0.0.1", TORCH))
PFL = Tool("pfl", ("pfl==0.6.0", TORCH))
FLOWER = Tool("flower", ("flwr[simulation]==1.42.0", TORCH))

SCRIPTS: dict[str, tuple[str, Tool | None]] = {
    "local": ("local.py", None),
    "processes": ("processes.py", None),
    "gossipy": ("gossipy_peer.py", GOSSIPY),
    "flower": ("flower_peer.py", FLOWER),
    "pfl": ("pfl_peer.py", PFL),
    "one model": ("central.py", None),
}
"""By row: what is run, and in whose environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of training all nodes.

    Attributes:
        rate: steps of nodes a second.
        per_cpu: steps of nodes a second of processor, of all processes together: what does
            not change much when others use the machine as well.
        mib: memory that its processes held when the clock was stopped, what they share
            counted once.
        processes: how many they were.
    """

    rate: float
    per_cpu: float
    mib: float
    processes: int


class Failed(Exception):
    """A script that ended without a result; says what it wrote last."""


ONE_PROCESS = ("gossipy", "pfl")
"""Run with one thread, and with one a core: the better one counts."""


def best(name: str, **study: object) -> Row:
    """The better of what `run` says with one thread and with all, where there is a choice."""
    threads = (1, os.cpu_count() or 1) if name in ONE_PROCESS else (0,)
    return max((run(name, threads=count, **study) for count in threads), key=lambda row: row.rate)


def run(
    name: str,
    *,
    model: str,
    nodes: int,
    steps: int,
    rounds: int,
    data: Path,
    cache: Path,
    torch_index: str = "",
    threads: int = 0,
) -> Row:
    """One row; `threads` is torch's, 0: as the script has it.

    Raises:
        Failed: the script failed.
        NotThere: the tool cannot be installed.
    """
    script, tool = SCRIPTS[name]
    python = Path(sys.executable) if tool is None else python_of(tool, cache, torch_index)
    words = {"model": model, "nodes": nodes, "steps": steps, "rounds": rounds, "data": data}
    options = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
    paths = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "RAY_DEDUP_LOGS": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [str(python), str(HERE / script), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=env,
        )
        try:
            return _watch(child)
        except Failed as reason:
            child.wait()
            errors.seek(0)
            raise Failed(f"{name}: {reason} {errors.read()[-1500:]}") from reason
        finally:
            _end(child)


def _watch(child: subprocess.Popen[str]) -> Row:
    before = 0.0
    for line in child.stdout or ():
        if line.startswith(STARTED):
            before = _cpu_seconds(child.pid)
        if not line.startswith(RESULT):
            continue
        used = _cpu_seconds(child.pid) - before
        found = json.loads(line)
        mib, processes = _held(child.pid)
        return Row(
            rate=found["node_steps"] / found["seconds"],
            per_cpu=found["node_steps"] / used,
            mib=mib,
            processes=processes,
        )
    raise Failed("no result:")


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _cpu_seconds(pid: int) -> float:
    """User and system, of all that are alive."""
    return sum(sum(process.cpu_times()[:2]) for process in _family(pid))


def _held(pid: int) -> tuple[float, int]:
    """MiB of a process and all below it, each shared page in parts to those who share it."""
    held = [process.memory_full_info().pss for process in _family(pid)]
    return sum(held) / 2**20, len(held)


def _end(child: subprocess.Popen[str]) -> None:
    try:
        child.communicate("\n", timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
