"""FusionBench's own functions on the matrices of a folder; prints CPU seconds.

    ENVIRONMENT/bin/python benchmarks/peers/spectral_fusion.py FOLDER METHOD REPEATS

Runs in an environment that has FusionBench and not weft. FusionBench has the alignment of
KnOTS and leaves the merge to the caller: here its own TIES.
"""

import contextlib
import io
import json
import logging
import statistics
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

KEY = "layer.weight"


def tsv_m(deltas):
    from fusion_bench.method.task_singular_vector.utils.TSVM_utils import (
        compute_and_sum_svd_mem_reduction,
    )

    return compute_and_sum_svd_mem_reduction([{KEY: delta} for delta in deltas], accelerator="cpu")[
        KEY
    ]


def iso_c(deltas):
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c as theirs

    return theirs([{KEY: delta} for delta in deltas], accelerator="cpu")[KEY]


def knots(deltas):
    from fusion_bench.method.knots.knots_utils import subspace_alignment
    from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging

    basis, values, parts = subspace_alignment(deltas, eps=1e-5)
    flat = torch.stack([(values[:, None] * part).flatten() for part in parts])
    merged = ties_merging(flat, reset_thresh=20, merge_func="mean")
    return basis @ merged.reshape(parts[0].shape)


METHODS = {"tsv_m": tsv_m, "iso_c": iso_c, "knots": knots}


def main() -> None:
    folder, name, repeats = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    seconds, merged = {}, {}
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        METHODS[name]([torch.randn(64, 64) for _ in range(4)])  # imports
        for path in sorted(folder.glob("*x*.safetensors")):
            tasks = load_file(path)
            deltas = [tasks[key] for key in sorted(tasks)]
            taken = []
            for _ in range(repeats):
                began = time.process_time()
                result = METHODS[name](deltas)
                taken.append(time.process_time() - began)
            merged[path.stem] = result.contiguous()
            seconds[f"{name} {path.stem}"] = statistics.median(taken)
    save_file(merged, folder / f"fusion-{name}.safetensors")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
