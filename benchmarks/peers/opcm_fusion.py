"""FusionBench's OPCM on matrices of a folder; prints the seconds of processor and clock.

    ENVIRONMENT/bin/python benchmarks/peers/opcm_fusion.py FOLDER THREADS 768x768 768x768 ...

Runs in an environment that has FusionBench and not weft. What each shape gives is left in
FOLDER.
"""

import json
import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    folder, threads, shapes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    from fusion_bench.method.opcm.opcm import OPCMForCLIP

    state = SimpleNamespace(previous_lambda_t=1.0, lambda_t=1.0)

    def merged(total, base, newcomer):
        return OPCMForCLIP.merge_linear_weights(
            state, total, base, newcomer, "layer.weight", alpha=0.5, accelerator="cpu"
        )

    pairs, results = {}, {}
    for shape in set(shapes):
        tasks = load_file(folder / f"{shape}.safetensors")
        pairs[shape] = tasks["task0"] + tasks["task1"] + tasks["task2"], tasks["task3"]
    with torch.no_grad():
        merged(torch.eye(64), torch.zeros(64, 64), torch.randn(64, 64))
        cpu, wall = time.process_time(), time.perf_counter()
        for shape in shapes:
            total, newcomer = pairs[shape]
            results[shape] = merged(total, torch.zeros_like(total), newcomer)
        taken = time.process_time() - cpu, time.perf_counter() - wall
    kept = {shape: (found - pairs[shape][0]).contiguous() for shape, found in results.items()}
    save_file(kept, folder / f"fusion-{'-'.join(sorted(set(shapes)))}.result")
    print(json.dumps({"taken": taken}))


if __name__ == "__main__":
    main()
