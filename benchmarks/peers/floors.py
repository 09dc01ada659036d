"""The least that a merge of files can take, as plain loops on one thread.

    python benchmarks/peers/floors.py move|mean|task_arithmetic OUT MODEL...

Reads the data of all shards into buffers that are used again, and writes files of the
same layout. `move` does no arithmetic; the others do their method's in float32 and round
once. The memory allocator is set as weft sets it; the files are synced, as a merge that
outlives a power cut must. No check, no hash, no plan. Prints what the loop alone took.
"""

import argparse
import json
import os
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from weft.checkpoints.allocator import keep_freed_buffers

BLOCK = 2**18
SCALE = 0.3

Arithmetic = Callable[[list[Tensor], Tensor], None]
"""Inputs, flat, of the files' dtype, and where the result goes."""


class Buffers:
    """Float32 blocks that are used again."""

    def __init__(self) -> None:
        self.total, self.part, self.base = (torch.empty(BLOCK) for _ in range(3))


def move(inputs: list[Tensor], out: Tensor) -> None:
    """What is written was in memory anyway."""


def mean(buffers: Buffers) -> Arithmetic:
    """The sum over the count."""

    def work(inputs: list[Tensor], out: Tensor) -> None:
        total, part = buffers.total[: out.numel()], buffers.part[: out.numel()]
        total.copy_(inputs[0])
        for item in inputs[1:]:
            total.add_(part.copy_(item))
        out.copy_(total.mul_(1 / len(inputs)))

    return work


def task_arithmetic(buffers: Buffers) -> Arithmetic:
    """The base and the scaled sum of the differences; the first input is the base."""

    def work(inputs: list[Tensor], out: Tensor) -> None:
        count = out.numel()
        total, part, base = (each[:count] for each in (buffers.total, buffers.part, buffers.base))
        base.copy_(inputs[0])
        total.zero_()
        for item in inputs[1:]:
            total.add_(part.copy_(item).sub_(base))
        out.copy_(base.add_(total, alpha=SCALE))

    return work


def shard(paths: list[Path], target: Path, work: Arithmetic) -> float:
    """One file of all models into one; seconds that its sync took."""
    files = [os.open(path, os.O_RDONLY) for path in paths]
    written = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    (length,) = struct.unpack("<Q", os.pread(files[0], 8, 0))
    os.pwrite(written, os.pread(files[0], 8 + length, 0), 0)
    blocks = [torch.empty(BLOCK, dtype=torch.bfloat16) for _ in files]
    result = torch.empty(BLOCK, dtype=torch.bfloat16)
    into = [block.view(torch.uint8).numpy().data for block in blocks]
    source = blocks[0] if work is move else result
    data = source.view(torch.uint8).numpy().data
    offset, end = 8 + length, os.fstat(files[0]).st_size
    while offset < end:
        size = min(2 * BLOCK, end - offset)
        for file, buffer in zip(files, into, strict=True):
            os.preadv(file, [buffer[:size]], offset)
        work([block[: size // 2] for block in blocks], result[: size // 2])
        os.pwrite(written, data[:size], offset)
        offset += size
    began = time.perf_counter()
    os.fsync(written)
    for file in (*files, written):
        os.close(file)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("method", choices=("move", "mean", "task_arithmetic"))
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_buffers()
    buffers = Buffers()
    works = {"move": move, "mean": mean(buffers), "task_arithmetic": task_arithmetic(buffers)}
    given.out.mkdir()
    began, cpu = time.perf_counter(), time.process_time()
    synced = sum(
        shard(
            [model / path.name for model in given.models],
            given.out / path.name,
            works[given.method],
        )
        for path in sorted(given.models[0].glob("*.safetensors"))
    )
    found = {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - began,
        "sync": synced,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
