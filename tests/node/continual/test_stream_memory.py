"""How much memory a contribution takes: it follows the largest tensor's state, and no more."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.node.continual.streams import begun, in_memory, save
from tests.support.repository import ROOT
from weft.merging import registry
from weft.merging.precision import Precision
from weft.merging.streaming import kept_bytes

MIB = 2**20
SHARE = 6
"""Times the state of the largest tensor, at most."""

START_UP = 48 * MIB
"""What a stream of small tensors takes as well: blocks on their way through a codec, pages
of libraries that are touched for the first time, freed buffers."""

ROWS, COLUMNS = 1280, 8192
MANY = 100


class Streams:
    """Streams in forks of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.continual.stream_memory_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def models(self, rows: int, count: int) -> list[Path]:
        """A base of two matrices, and some that were tuned from it."""
        generator = torch.Generator().manual_seed(rows)
        base = {name: torch.randn(rows, COLUMNS, generator=generator) for name in ("a.w", "b.w")}
        home = self.folder / f"models-{rows}"
        save(home / "base", base)
        return [
            save(
                home / f"c{number}",
                {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in base.items()},
            )
            for number in range(1, count + 1)
        ]

    def grown(self, method: str, paths: list[Path], name: str) -> int:
        """Bytes that a new stream of a method grew by while it took these models."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        folder = begun(self.folder / name, paths[0].parent, method)
        asked = json.dumps([str(folder), [str(path) for path in paths]])
        self.process.stdin.write(f"{asked}\n")
        before, most = json.loads(self.process.stdout.readline())
        assert most > before > 0
        return int(most) - int(before)


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    with in_memory("stream-memory") as folder:
        made = Streams(folder)
        try:
            yield made
        finally:
            os.killpg(made.process.pid, signal.SIGKILL)
            made.process.communicate()


@pytest.fixture(scope="module")
def large(streams: Streams) -> list[Path]:
    """Two contributions; either tensor is so large that what is freed goes back at once.

    Smaller ones are kept for the next (`checkpoints.allocator`), up to 128 MiB of them.
    """
    return streams.models(ROWS, 2)


@pytest.mark.parametrize(
    "method",
    [
        "mean",
        "opcm",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in ("ema", "ties", "magmax", "nufilt")
        ),
    ],
)
def test_six_times_the_largest_state(method: str, streams: Streams, large: list[Path]) -> None:
    state = kept_bytes(registry.create(method), "a.w", (ROWS, COLUMNS), Precision.EXACT)
    grown = streams.grown(method, large, f"large-{method}")
    print(f"\n{method}: {grown / MIB:.0f} MiB, {(grown - START_UP) / state:.1f} times the state")
    assert grown < SHARE * state + START_UP


def test_a_hundred_take_what_two_take(streams: Streams) -> None:
    paths = streams.models(4, MANY)
    two = streams.grown("mean", paths[:2], "two")
    hundred = streams.grown("mean", paths, "hundred")
    print(f"\n{two / MIB:.1f} MiB for two, {hundred / MIB:.1f} MiB for {MANY}")
    assert hundred < 1.1 * two + 8 * MIB
