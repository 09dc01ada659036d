"""A merge of files, from paths to a finished folder.

Everything that can be refused is refused before the first tensor is read: the output's
place, the inputs' formats, schemas and dtypes, the method's needs, the room on the disk.
"""

import os
import resource
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from weft.checkpoints.allocator import keep_freed_buffers
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.deltas import ModelReader
from weft.checkpoints.engine import Contribution, MergeSpec, Meter, Workers, merge
from weft.checkpoints.errors import BadPath, SchemaMismatch
from weft.checkpoints.factor_merge import without_dense
from weft.checkpoints.header import Json
from weft.checkpoints.identities import Identities, apart, files_of
from weft.checkpoints.inputs import Format, format_of, model_digest, open_input
from weft.checkpoints.output import OutputFolder
from weft.checkpoints.schema import FLOATING, SHOWN_DIFFERENCES, Schema, differences_of
from weft.checkpoints.sidecars import Sidecar, find_sidecars, with_dtype
from weft.checkpoints.stacked import Part, StackedReader
from weft.checkpoints.stacked_config import with_layers
from weft.merging.errors import BadOption
from weft.merging.method import Need

DEFAULT_SHARD_BYTES: Final = 5 * 10**9


@dataclass(frozen=True, slots=True)
class LayersOf:
    """Layers `first` to `stop`, the latter left out, of the checkpoint at a path."""

    path: Path
    first: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A model to be merged: where it is, what it is called, what it weighs.

    Attributes:
        adapter: a PEFT folder that is applied to the checkpoint at `path`.
        slices: the model is this stack of layers instead, and `path` only names it.
    """

    path: Path
    name: str
    weight: float = 1.0
    adapter: Path | None = None
    slices: tuple[LayersOf, ...] = ()

    @property
    def where(self) -> str:
        """What messages call it: the path as it was given, or the name of a stack."""
        return self.name if self.slices else str(self.adapter or self.path)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that is read for it."""
        whole = (self.path,) if not self.slices else tuple(each.path for each in self.slices)
        return whole if self.adapter is None else (*whole, self.adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeJob:
    """What is merged, how, and where to.

    Attributes:
        spec: the method and its steps.
        base: what task vectors are taken from.
        models: in their order.
        output: the folder that will appear.
        recipe: how the method was asked for, as it will stand in the plan.
        sidecars: folder whose configuration and tokenizer files go with the result;
            None: the base's, or the first model's.
        dtype: of the output's floating tensors ("BF16", ...); None: the base's, or the
            first model's.
        shard_bytes: the most bytes of tensors in one file.
        threads: workers.
        memory_bytes: what they may fill between them.
        resume: go on with what an interrupted merge left.
        mixed_dtypes: models may have other dtypes than the base.
        prefix: of torch.distributed checkpoints only tensors that begin with it, without it.
    """

    spec: MergeSpec
    base: Input | None
    models: tuple[Input, ...]
    output: Path
    recipe: Mapping[str, Json]
    sidecars: Path | None = None
    dtype: str | None = None
    shard_bytes: int = DEFAULT_SHARD_BYTES
    threads: int = 1
    memory_bytes: int = 2**30
    resume: bool = False
    mixed_dtypes: bool = False
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge made, and what it took.

    Attributes:
        digest: of the model as an artifact; does not depend on the layout on disk.
        seconds: by the clock.
        cpu_seconds: of this process, start-up included.
        peak_rss_bytes: the most memory that this process had resident.
        bytes_read: of parameters, all passes together.
        experts: names of the contributions that can be restored (`expert_job.py`).
        adapter_rank: the largest among the modules of an adapter that was made
            (`adapter_job.py`).
        truncation_error: what the adapter leaves out of the merged task vector, as a share
            of its norm, over all linear weights.
    """

    output: Path
    digest: str
    tensors: int
    parameters: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    bytes_read: int
    bytes_written: int
    experts: tuple[str, ...] = ()
    adapter_rank: int | None = None
    truncation_error: float | None = None


def run_job(job: MergeJob, meter: Meter | None = None) -> MergeReport:
    """Merge files into a new model folder.

    Args:
        job: what is to be done.
        meter: counts what is read.

    Raises:
        ChangedInput: a file was written while it was merged; nothing is left behind.
        WeftError: what the inputs, the method or the disk refuse; nothing is left behind
            but, after a kill, `OUTPUT.partial`.
    """
    began = time.monotonic()
    keep_freed_buffers()
    meter = meter or Meter()
    with ExitStack() as stack:
        inputs = JobInputs(job, stack)
        schema = with_dtype_of(inputs.own.schema, job.dtype)
        output = OutputFolder(
            job.output,
            schema,
            shard_bytes=job.shard_bytes,
            plan={"recipe": dict(job.recipe), "inputs": inputs.identities()},
            resume=job.resume,
            sidecars=inputs.sidecars(schema),
            apart=inputs.apart,
        )
        workers = Workers(job.threads, job.memory_bytes, job.spec.device)
        with output:
            remaining = [spec.name for spec in output.remaining]
            if remaining:
                spec, models = without_dense(job.spec, inputs.base, inputs.contributions())
                merge(
                    spec,
                    inputs.base,
                    models,
                    inputs.own,
                    output,
                    only=remaining,
                    workers=workers,
                    meter=meter,
                )
                inputs.require_unchanged()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return MergeReport(
        output=output.path,
        digest=output.digest,
        tensors=len(schema),
        parameters=sum(spec.elements for spec in schema.parameters),
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        bytes_read=meter.total,
        bytes_written=output.bytes_written,
    )


class JobInputs:
    """The opened inputs of a job, checked against each other."""

    def __init__(self, job: MergeJob, stack: ExitStack) -> None:
        if not job.models:
            raise BadOption("nothing to merge: name at least one model")
        _require_apart(job)
        self._job = job
        self._stack = stack
        self._seen = identities_of(job)
        self._base_digest: str | None = None
        self.base: RangeReader | None = None
        if job.base is not None:
            self.base = self._open(job.base, None)
        self._base_digest = self._digest_of_base()
        self._readers = [self._open(item, self.base) for item in job.models]
        self.own = self.base or self._readers[0]
        first = job.base or job.models[0]
        for item, reader in zip(job.models, self._readers, strict=True):
            require_same_model(
                reader.schema, self.own.schema, item.where, first.where, job.mixed_dtypes
            )

    def contributions(self) -> list[Contribution]:
        """The models with their names and weights; where a step draws, all of them is read."""
        draws = any(Need.KEY in step.needs for step in self._job.spec.steps)
        return [
            Contribution(
                name=item.name,
                where=item.where,
                reader=reader,
                weight=item.weight,
                key=bytes.fromhex(model_digest(reader)) if draws and item.weight else b"",
            )
            for item, reader in zip(self._job.models, self._readers, strict=True)
        ]

    def _open(self, item: Input, base: RangeReader | None) -> RangeReader:
        if item.slices and item.adapter is not None:
            raise BadOption(
                f"{item.name}: layers of a checkpoint cannot take an adapter; apply it first"
                " (weft apply)"
            )
        if item.slices:
            parts = [
                Part(self._enter(each.path, None), each.first, each.stop) for each in item.slices
            ]
            return StackedReader(parts)
        if item.adapter is None:
            return self._enter(item.path, base)
        if self._job.base is not None and item.path == self._job.base.path:
            return self._enter(item.adapter, base)
        # Its exact task vector is against a checkpoint that is not the base of the merge.
        return ModelReader(self._enter(item.adapter, self._enter(item.path, base)))

    def _digest_of_base(self) -> str | None:
        """Of the base, where a delta will ask for it: one reading serves them all."""
        deltas = any(format_of(item.path) is Format.DELTA for item in self._job.models)
        return model_digest(self.base) if deltas and self.base is not None else None

    def _enter(self, path: Path, base: RangeReader | None) -> RangeReader:
        digest = self._base_digest if base is self.base else None
        reader = self._stack.enter_context(
            open_input(path, base, base_digest=digest, prefix=self._job.prefix)
        )
        reader.pinned = self._job.spec.device != "cpu"
        return reader

    def sidecars(self, output: Schema) -> tuple[Sidecar, ...]:
        """The companions of the output, their dtype and number of layers put right."""
        first = self._job.base or self._job.models[0]
        found = find_sidecars(self._job.sidecars or first.path)
        if first.slices:
            found = with_layers(
                found, [(each.path, each.first, each.stop) for each in first.slices]
            )
        return with_dtype(found, self.own.schema, output)

    def identities(self) -> list[Json]:
        """What the inputs are, as far as can be told without reading them whole."""
        return [_identity_of(item, self._seen) for item in _all(self._job)]

    def apart(self, there: Json, now: Json) -> str:
        """What sets two records of this job's output apart, in words."""
        return apart(there, now, [list(dict.fromkeys(item.paths)) for item in _all(self._job)])

    def require_unchanged(self) -> None:
        """Check that what was read is what was opened; before a result appears.

        Raises:
            ChangedInput: names the file.
        """
        self._seen.require_unchanged()


def _all(job: MergeJob) -> list[Input]:
    """The base, where there is one, and the models."""
    return [*([] if job.base is None else [job.base]), *job.models]


def identities_of(job: MergeJob) -> Identities:
    """Of all that a job reads, as they are now."""
    return Identities.at(path for item in _all(job) for path in item.paths)


def _identity_of(item: Input, seen: Identities) -> Json:
    """What is read for one input, and which layers of it."""
    paths = list(dict.fromkeys(item.paths))
    layers: list[Json] = [[paths.index(each.path), each.first, each.stop] for each in item.slices]
    return {"reads": [seen.of(path) for path in paths], "layers": layers}


def _require_apart(job: MergeJob) -> None:
    """Refuse an output within an input: the next merge would read what this one wrote."""
    output = Path(os.path.realpath(job.output))
    for path in (path for item in _all(job) for path in item.paths):
        if os.path.isdir(path) and Path(os.path.realpath(path)) in output.parents:
            raise BadPath(f"{job.output}: lies within {path}, which is merged; choose another")


def tensor_names(job: MergeJob) -> tuple[str, ...]:
    """The names of the tensors that a merge will write; only headers are read."""
    with ExitStack() as stack:
        return JobInputs(job, stack).own.schema.names


def with_dtype_of(schema: Schema, dtype: str | None) -> Schema:
    """The schema with all floating tensors in one dtype; unchanged for None."""
    if dtype is None:
        return schema
    return Schema(
        tuple(replace(spec, dtype=dtype) if spec.dtype in FLOATING else spec for spec in schema)
    )


def require_same_model(
    found: Schema, expected: Schema, where: str, against: str, mixed_dtypes: bool
) -> None:
    """Names and shapes must agree, and dtypes unless that is waived.

    Raises:
        SchemaMismatch: lists the first ten tensors that differ.
    """
    waivable = False
    differences = list(differences_of(found, expected, dtypes=False))
    if not mixed_dtypes:
        waivable = not differences
        differences = list(differences_of(found, expected))
    if not differences:
        return
    hint = " (--mixed-dtypes merges them all the same)" if waivable else ""
    shown = "\n  ".join(differences[:SHOWN_DIFFERENCES])
    more = len(differences) - SHOWN_DIFFERENCES
    tail = f"\n  and {more} more" if more > 0 else ""
    raise SchemaMismatch(
        f"{where}: {len(differences)} of its tensors are not those of {against}{hint}:"
        f"\n  {shown}{tail}"
    )


def bytes_to_read(job: MergeJob) -> int:
    """About how many bytes a merge will read, from the sizes of the files."""
    models = sum(_size(path) for item in job.models for path in item.paths)
    base = sum(map(_size, job.base.paths)) if job.base is not None else 0
    return models * job.spec.passes + base * job.spec.passes_over_base


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))
