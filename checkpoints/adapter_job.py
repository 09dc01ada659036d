"""A merge of files that leaves as a PEFT adapter of the base.

Where all inputs are adapters of the base and the method has a way through factors
(`factor_merge.py`), no dense matrix is made: the merged factors are cut to the rank asked
for. Otherwise the merged task vector of each linear weight is made whole, as many at a
time as memory allows, and replaced by the nearest matrix of that rank. Either cut is the
best there is, by Eckart and Young, and what it leaves out is reported.

An adapter has factors for linear weights, and for whatever an input adapter had factors
for. Other parameters that the merge changes, such as norms and embeddings, are saved
whole with all of their module (PEFT's `modules_to_save`), and so is what an input adapter
held whole; where the module has factors as well, as with the bias of a linear layer, they
are refused by name. Whether a matrix of a checkpoint is (in, out), as in GPT-2, cannot be
seen in its file: it is taken for (out, in) unless an input adapter says otherwise.

Memory: the adapter in the dtype of its file, and what the workers are allowed.
"""

import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from weft.checkpoints.adapter_config import CONFIG_NAME, MAX_CONFIG_BYTES, MAX_RANK
from weft.checkpoints.adapter_merge import AdapterMerge
from weft.checkpoints.adapter_writer import write_adapter
from weft.checkpoints.adapters import AdapterReader
from weft.checkpoints.allocator import keep_freed_buffers
from weft.checkpoints.disk import read_whole
from weft.checkpoints.factor_merge import adapters_among
from weft.checkpoints.header import Json, parse_strict
from weft.checkpoints.job import JobInputs, MergeJob, MergeReport
from weft.checkpoints.new_folder import require_new
from weft.checkpoints.parallel import one_thread
from weft.checkpoints.schema import FLOATING, Schema
from weft.checkpoints.task_vectors import Meter
from weft.merging.errors import BadOption, CannotMerge

CARRIED: Final = ("base_model_name_or_path", "revision", "task_type")
"""Fields of a configuration that a merged adapter takes over where all inputs agree."""


def run_adapter_job(job: MergeJob, rank: int, meter: Meter | None = None) -> MergeReport:
    """Merge files into a PEFT adapter of the base.

    Args:
        job: its output is the adapter's folder, which appears whole; its dtype that of the
            factors, float32 where it says none.
        rank: the highest of any module.
        meter: counts what is read.

    Raises:
        BadOption: a rank that cannot be, or no base.
        CannotMerge: the merge changes nothing, or what an adapter cannot hold.
        ChangedInput: a file was written while it was merged.
        NotEnoughMemory: a matrix does not fit the memory allowed.
        WeftError: what the inputs, the method or the disk refuse; nothing is left behind.
    """
    began = time.monotonic()
    keep_freed_buffers()
    if not 1 <= rank <= MAX_RANK:
        raise BadOption(f"rank of the adapter: found {rank}, expected 1 to {MAX_RANK}")
    if job.base is None:
        raise BadOption("an adapter is a change of a base, and there is none: give one (--base)")
    require_new(job.output)
    meter = meter or Meter()
    with ExitStack() as stack:
        inputs = JobInputs(job, stack)
        present = [item for item in inputs.contributions() if item.weight != 0]
        made = AdapterMerge(job, inputs.own, present, rank, meter)
        made.run()
        whole = made.whole()
        if not made.factors and whole is None:
            raise CannotMerge("the merge changes nothing of the base: there is no adapter to write")
        with one_thread():
            write_adapter(
                job.output,
                made.factors,
                _carried(list(adapters_among(present).values())),
                made.dtype,
                embeddings=made.embeddings,
                transposed=made.transposed,
                whole=whole,
                accept=inputs.require_unchanged,
            )
        with AdapterReader(job.output, inputs.own) as reader:
            digest, held = reader.identity(), reader.held
    return _report(job.output, digest, held, made, began, meter)


def _report(
    output: Path, digest: str, held: Schema, made: AdapterMerge, began: float, meter: Meter
) -> MergeReport:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return MergeReport(
        output=output,
        digest=digest,
        tensors=len(held),
        parameters=sum(spec.elements for spec in held if spec.dtype in FLOATING),
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        bytes_read=meter.total,
        bytes_written=sum(file.stat().st_size for file in output.iterdir()),
        adapter_rank=made.rank,
        truncation_error=made.truncation_error,
    )


def _carried(adapters: Sequence[AdapterReader]) -> dict[str, Json]:
    """What all configurations say alike of things that do not change the weights."""
    documents: list[Mapping[str, Json]] = [
        parse_strict(
            read_whole(reader.path / CONFIG_NAME, MAX_CONFIG_BYTES), str(reader.path), floats=True
        )
        for reader in adapters
    ]
    return {
        key: documents[0][key]
        for key in CARRIED
        if documents
        and all(key in each and each[key] == documents[0].get(key) for each in documents)
    }
