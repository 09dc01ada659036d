"""FusionBench's own functions on whole models; writes merged task vectors in float64.

    ENVIRONMENT/bin/python benchmarks/peers/fusion_methods.py OUT BASE MODEL...

Runs in an environment that has FusionBench and not weft. Tables of embeddings are left out
of its spectral methods, as weft leaves them out.
"""

import contextlib
import io
import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TABLES = ["model.embed_tokens.weight", "lm_head.weight"]


def tsv_m(tasks):
    from fusion_bench.method.task_singular_vector.utils.TSVM_utils import (
        compute_and_sum_svd_mem_reduction,
    )

    return compute_and_sum_svd_mem_reduction(tasks, exclude_keys=TABLES, accelerator="cpu")


def iso_c(tasks):
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c as theirs

    return theirs(tasks, accelerator="cpu", exclude_keys=TABLES)


def iso_cts(tasks):
    from fusion_bench.method.isotropic_merging.iso_utils import iso_cts as theirs

    return theirs(tasks, common_space_fraction=0.8, accelerator="cpu", exclude_keys=TABLES)


def wudi(tasks):
    from fusion_bench.method.wudi.wudi import wudi_merging

    with torch.enable_grad():
        merged = wudi_merging(tasks, accelerator="cpu", iter_num=300, exclude_keys=TABLES)
    return {name: value.detach() for name, value in merged.items()}


def magmax(tasks):
    from fusion_bench.method.magmax.magmax import _magmax_select

    return _magmax_select(tasks)


def emr(tasks):
    from fusion_bench.method.emr_merging.utils import emr_merge

    return emr_merge(tasks)[0]


def ties(tasks):
    from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging

    names = sorted(tasks[0])
    flat = torch.stack([torch.cat([task[name].flatten() for name in names]) for task in tasks])
    merged = ties_merging(flat, reset_thresh=20, merge_func="mean")
    parts = merged.split([tasks[0][name].numel() for name in names])
    return {
        name: part.reshape(tasks[0][name].shape) for name, part in zip(names, parts, strict=True)
    }


def svc(tasks):
    from fusion_bench.method.singular_value_calibration.utils import (
        subspace_consistency_spectral_calibration,
    )

    merged = {name: sum(task[name] for task in tasks) for name in tasks[0]}
    for name, value in merged.items():
        if value.ndim == 2 and name not in TABLES:
            merged[name] = subspace_consistency_spectral_calibration(
                torch.zeros_like(value), [task[name] for task in tasks], value, alpha=0.1
            )
    return merged


METHODS = (tsv_m, iso_c, iso_cts, wudi, magmax, emr, ties, svc)


def read(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        found |= {name: value.double() for name, value in load_file(path).items()}
    return found


def main() -> None:
    out, (base, *models) = Path(sys.argv[1]), [read(folder) for folder in sys.argv[2:]]
    logging.disable(logging.WARNING)
    for method in METHODS:
        tasks = [{name: model[name] - base[name] for name in base} for model in models]
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            merged = method(tasks)
        save_file(
            {name: value.contiguous() for name, value in merged.items()},
            out / f"{method.__name__}.safetensors",
        )


if __name__ == "__main__":
    main()
