"""How much memory merges take: it follows the allowance, not the number or size of models."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from weft.checkpoints.task_vectors import PIECE_ELEMENTS
from weft.merging import registry
from weft.merging.method import Scope
from weft.merging.registry import Kind

MIB = 2**20
START_UP = 80 * MIB
"""What a merge of nothing takes as well: pages of libraries that are touched for the first
time, and freed buffers that are kept."""

MATRIX = (1024, 1024)


def is_element_wise(name: str) -> bool:
    return registry.create(name).scope("fc.weight", MATRIX) is Scope.ELEMENT


FOLDS = [
    name
    for name in registry.names()
    if registry.entry(name).kind is Kind.FOLD and is_element_wise(name)
]
PIECES = ["krum", "karcher", "coordinate_median"]
"""These want a small piece of each contribution at a time."""


def write_zeros(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A file of bfloat16 zeros that takes no room on the disk."""
    entries, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + offset)
    return path


class Merges:
    """Merges in forks of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.checkpoints.memory_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._made = 0

    def peak(
        self,
        method: str,
        models: list[Path],
        base: Path | None = None,
        *,
        threads: int = 1,
        memory: int = 2**40,
        shard_bytes: int = 10**10,
        **options: object,
    ) -> tuple[int, int]:
        """Resident bytes before, and the most that there were."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._made += 1
        output = self.folder / f"out-{self._made}"
        paths = [str(path) for path in models]
        origin = None if base is None else str(base)
        asked = [method, options, origin, paths, str(output), threads, memory, shard_bytes]
        self.process.stdin.write(f"{json.dumps(asked)}\n")
        before, most = json.loads(self.process.stdout.readline())
        shutil.rmtree(output)
        return before, most


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Merges]:
    made = Merges(tmp_path_factory.mktemp("memory"))
    try:
        yield made
    finally:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


@pytest.fixture(scope="module")
def many(merges: Merges) -> list[Path]:
    shapes = {"fc.weight": MATRIX, "head.weight": MATRIX}
    return [write_zeros(merges.folder / f"{n}.safetensors", shapes) for n in range(17)]


@pytest.mark.parametrize("method", [*FOLDS, "ema"])
def test_sixteen_models_take_what_two_take(method: str, merges: Merges, many: list[Path]) -> None:
    base, *models = many
    _, two = merges.peak(method, models[:2], base)
    before, sixteen = merges.peak(method, models, base)
    assert sixteen <= 1.1 * two
    # Nor do two take what would hold sixteen: 256 MiB as float64.
    assert sixteen - before < 128 * MIB


@pytest.mark.parametrize("method", PIECES)
def test_others_take_a_piece_of_each(method: str, merges: Merges, many: list[Path]) -> None:
    base, *models = many
    _, two = merges.peak(method, models[:2], base)
    _, sixteen = merges.peak(method, models, base)
    assert sixteen - two < 14 * 4 * 8 * PIECE_ELEMENTS


def test_models_far_beyond_the_memory_allowed(merges: Merges) -> None:
    """A gigabyte, most of it one tensor each, through 64 MiB."""
    shapes = {"embed.weight": (2**16, 2**11), **{f"{n}.w": (2**11, 2**11) for n in range(8)}}
    models = [write_zeros(merges.folder / f"large-{n}", shapes) for n in range(3)]
    before, most = merges.peak("mean", models, threads=2, memory=64 * MIB, shard_bytes=100 * MIB)
    assert most - before < 64 * MIB + START_UP
    for path in models:
        path.unlink()


def test_tensors_that_must_be_seen_whole_keep_to_the_memory_allowed(merges: Merges) -> None:
    """Several matrices are worked on at a time only where there is room for them."""
    shapes = {f"{n:02}.weight": (1024, 512) for n in range(12)}
    paths = [write_zeros(merges.folder / f"wide-{n}", shapes) for n in range(9)]
    allowed = 96 * MIB
    before, most = merges.peak("iso_c", paths[1:], paths[0], threads=4, memory=allowed)
    assert most - before < allowed + START_UP
