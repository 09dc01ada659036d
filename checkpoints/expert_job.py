"""A merge of files, and a set of experts beside it.

The model is made first, then the experts in one more pass over the contributions. With
`resume` the same job goes on wherever it was killed; so it also makes the experts of a
merge that was made without them.
"""

import os
import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.contribution import Contribution
from weft.checkpoints.expert_files import (
    MaskedMethod,
    Origin,
    plan_experts,
    require_file_names,
)
from weft.checkpoints.experts import require_place, write_experts
from weft.checkpoints.inputs import model_digest
from weft.checkpoints.job import JobInputs, MergeJob, MergeReport, identities_of, run_job
from weft.checkpoints.merge_spec import MergeSpec
from weft.checkpoints.parallel import Job, Workers
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.task_vectors import Meter
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.methods.consensus import Consensus
from weft.merging.methods.emr import Emr
from weft.merging.table import name_of


def run_expert_job(job: MergeJob, folder: Path, meter: Meter | None = None) -> MergeReport:
    """Merge files into a new model folder, and write what gives each contribution back.

    Args:
        job: with method `emr` or `consensus`, and nothing before or after it.
        folder: of the experts; see `experts.py`.
        meter: counts what is read.

    Raises:
        BadOption: another method, or steps around it.
        ChangedInput: a file was written while it was merged or masked; a merged model
            that was whole before is kept.
        WeftError: as of `run_job` and `write_experts`.
    """
    began = time.monotonic()
    meter = meter or Meter()
    method = masked_method(job.spec)
    if job.base is None:
        raise CannotMerge("experts stand on a base, and there is none here: give one (--base)")
    require_file_names([item.name for item in job.models if item.weight != 0])
    if os.path.realpath(folder) == os.path.realpath(job.output):
        raise BadOption(f"{folder}: is the merged model's folder; choose another for the experts")
    require_place(folder, job.resume)
    seen = identities_of(job)
    report = run_job(job, meter)
    workers = Workers(job.threads, job.memory_bytes)
    with ExitStack() as stack:
        inputs = JobInputs(job, stack)
        merged = stack.enter_context(open_checkpoint(job.output))
        present = [item for item in inputs.contributions() if item.weight != 0]
        base = inputs.own
        digests = _digests([base, *(item.reader for item in present)], workers)
        plan = plan_experts(
            method,
            job.spec.precision,
            Origin(base, digests[0]),
            Origin(merged, report.digest),
            present,
            digests[1:],
        )
        write_experts(
            folder,
            plan,
            base,
            resume=job.resume,
            workers=workers,
            meter=meter,
            accept=seen.require_unchanged,
        )
    return _with_experts(report, folder, present, began, meter)


def masked_method(spec: MergeSpec) -> MaskedMethod:
    """The method of a merge whose contributions can be given back.

    Raises:
        BadOption: another method, or one that is not alone or not the same for all tensors.
    """
    if not isinstance(spec.method, Emr | Consensus):
        raise BadOption(
            f"experts: found method {name_of(spec.method)}; only emr and consensus leave"
            " masks that give a contribution back"
        )
    if spec.before or spec.own or spec.after or spec.tailor is not None:
        raise BadOption(
            "experts: found steps around the merge, or weights that vary by tensor; masks are of"
            " the plain method alone"
        )
    return spec.method


def _digests(readers: Sequence[RangeReader | TensorReader], workers: Workers) -> list[str]:
    jobs = (Job(partial(model_digest, reader)) for reader in readers)
    with closing(workers.ordered(jobs)) as results:
        return list(results)


def _with_experts(
    report: MergeReport,
    folder: Path,
    present: Sequence[Contribution],
    began: float,
    meter: Meter,
) -> MergeReport:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return replace(
        report,
        experts=tuple(item.name for item in present),
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        bytes_read=meter.total,
        bytes_written=report.bytes_written + sum(file.stat().st_size for file in folder.iterdir()),
    )
