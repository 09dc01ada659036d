"""weft's OPCM on matrices of a folder; prints the seconds of processor and clock.

    python benchmarks/peers/opcm_weft.py FOLDER THREADS 768x768 768x768 ...

The sum so far is in float64, as a stream keeps it; base and newcomer are float32, as files
have them. What each shape gives is left in FOLDER.
"""

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.checkpoints.allocator import keep_freed_buffers
from weft.checkpoints.parallel import Job, Workers, one_thread
from weft.merging.method import Facts
from weft.merging.methods.opcm import Opcm


def main() -> None:
    folder, threads, shapes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    keep_freed_buffers()
    pairs = {shape: loaded(folder / f"{shape}.safetensors") for shape in shapes}
    totals = {shape: total.to(torch.float64) for shape, (total, _) in pairs.items()}
    method, facts = Opcm(), Facts(contribution="newcomer")

    def absorbed(total: Tensor, base: Tensor, newcomer: Tensor) -> Tensor:
        delta = newcomer.to(torch.float64) - base.to(torch.float64)
        return method.absorb("layer.weight", {"sum": total}, delta, facts)["sum"]

    def jobs() -> Iterator[Job[Tensor]]:
        for shape in shapes:
            newcomer = pairs[shape][1]
            yield Job(partial(absorbed, totals[shape], torch.zeros_like(newcomer), newcomer))

    with one_thread():
        absorbed(torch.eye(64).double(), torch.zeros(64, 64), torch.randn(64, 64))
        cpu, wall = time.process_time(), time.perf_counter()
        results = list(Workers(threads).ordered(jobs()))
        taken = time.process_time() - cpu, time.perf_counter() - wall
    kept = {shape: found - totals[shape] for shape, found in zip(shapes, results, strict=True)}
    save_file({shape: found.contiguous() for shape, found in kept.items()}, named(folder, shapes))
    print(json.dumps({"taken": taken}))


def loaded(path: Path) -> tuple[Tensor, Tensor]:
    """What is there, the sum of three, and the fourth, both float32."""
    first, second, third, newcomer = (load_file(path)[f"task{place}"] for place in range(4))
    return first + second + third, newcomer


def named(folder: Path, shapes: list[str]) -> Path:
    """Where the results of a run go."""
    return folder / f"weft-{'-'.join(sorted(set(shapes)))}.result"


if __name__ == "__main__":
    main()
