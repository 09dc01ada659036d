"""Experts: what gives each contribution back, nearly, from what was merged of all.

    DIR/a.safetensors          of contribution "a": a bit an element, and one number
    DIR/b.safetensors
    DIR/vector.safetensors     what the bits are masks of, where the merged model is not

A restored expert is base + scale * M * v (`weft.merging.masks`). For `emr`, v is the
unified vector, the mask says where the signs agree and the scale makes the lengths equal.
For `consensus`, v is the sum of all weighted task vectors, the mask is the TALL mask with
the method's share, and the scale undoes the weight.

The merged model itself holds v, as merged - base, where it is an unscaled `emr` merge
without any rounding: all in one dtype, and no adapters. Otherwise v is written once, in
float32 (float64 for tensors of float64). A consensus model never holds it: what few
wanted is not in it.

An expert's file holds `mask.NAME` for each parameter, uint8, eight elements a byte, the
first in the lowest bit; `kept.NAME` for each statistic or buffer that differs from the
merged model's, whole; `scale`, float64. Its metadata names the merged model, the base and
the contribution by their digests, and the set that it is part of.

All files are written in one pass over the contributions, in bounded memory. The folder
appears when they are whole, as `DIR.partial` before; with `resume`, one that is there
already is taken where it is of the very set, and what a killed process left is made anew.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import BadPath, OtherPlan
from weft.checkpoints.expert_files import VECTOR_NAME, ExpertPlan, same_file
from weft.checkpoints.parallel import Job, Workers, one_thread
from weft.checkpoints.partial import PartialFolder, occupied
from weft.checkpoints.reader import SUFFIX, TensorReader
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.task_vectors import CheckpointStream, Meter, Piece, Shaped, Span, spans
from weft.checkpoints.writer import SafetensorsWriter
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import CannotMerge
from weft.merging.masks import EmrSums, emr_mask, emr_sums, rescaler, tall_mask
from weft.merging.method import Facts, Method, Scope
from weft.merging.methods.consensus import Consensus
from weft.merging.methods.emr import Emr
from weft.merging.methods.task_arithmetic import TaskArithmetic

__all__ = ["require_place", "write_experts"]

SPAN_ELEMENTS: Final = 2**21
"""Elements of a tensor that one job masks; whole bytes of bits."""


@dataclass(frozen=True, slots=True)
class _Marks:
    """What one job found at a span of a tensor; one entry a contribution."""

    bits: list[list[Tensor]]
    sums: list[EmrSums]
    vector: list[Tensor]


def require_place(folder: Path, resume: bool) -> None:
    """Check that a set can be written there; before long work, so that it is not in vain.

    Raises:
        BadPath: something is there, or it cannot be.
    """
    if occupied(folder) and not resume:
        raise BadPath(f"{folder}: exists; choose another, or remove it")


class ExpertPass:
    """One pass over the contributions, which masks them and writes all files of a set.

    Args:
        plan: what goes into the files.
        base: what task vectors are taken from.
        workers: who masks.
        meter: counts what is read.
    """

    def __init__(self, plan: ExpertPlan, base: RangeReader, workers: Workers, meter: Meter) -> None:
        self._plan, self._workers = plan, workers
        self._method = plan.method
        self._facts = [
            Facts(contribution=item.name, weight=item.weight) for item in plan.contributions
        ]
        readers: dict[str, TensorReader] = {item.name: item.reader for item in plan.contributions}
        self._stream = CheckpointStream(base, readers, plan.precision.dtype, meter)
        self._parameters = plan.merged.parameters
        self._unified: Method = TaskArithmetic(scale=1.0, bound=self._method.bound)
        if isinstance(self._method, Emr):
            self._unified = Emr(bound=self._method.bound)

    def write(self, folder: Path) -> None:
        """Write every file of the set, durably, into a folder.

        Raises:
            CannotMerge: nothing of a contribution is in the unified vector.
            NonFinite, OutOfBound: what the method refuses as well.
            DiskFull: no room.
        """
        plan = self._plan
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    SafetensorsWriter(folder / expert.file_name, expert.schema, expert.metadata)
                )
                for expert in plan.experts
            ]
            vector = None
            if plan.vector is not None:
                vector = SafetensorsWriter(folder / VECTOR_NAME, plan.vector, plan.vector_metadata)
                stack.enter_context(vector)
            sums = self._mask(writers, vector)
            for expert, writer, found in zip(plan.experts, writers, sums, strict=True):
                for name, blocks in expert.kept():
                    writer.write(name, blocks)
                scale = self._scale(expert.name, expert.weight, found)
                writer.write("scale", torch.tensor(scale, dtype=torch.float64))

    def _scale(self, name: str, weight: float, found: list[EmrSums]) -> float:
        if isinstance(self._method, Consensus):
            return 1 / weight
        try:
            return rescaler(found)
        except CannotMerge as error:
            raise CannotMerge(f"{name}: cannot be given back: {error}") from None

    def _mask(
        self, writers: Sequence[SafetensorsWriter], vector: SafetensorsWriter | None
    ) -> list[list[EmrSums]]:
        """Masks and vector of all parameters; returns each contribution's sums."""
        cut = {
            spec.name: list(spans(spec, Scope.ELEMENT, SPAN_ELEMENTS, self._stream.seekable))
            for spec in self._parameters
        }
        jobs = (
            Job(partial(self._marks, spec, span), self._cost(span))
            for spec in self._parameters
            for span in cut[spec.name]
        )
        sums: list[list[EmrSums]] = [[] for _ in writers]
        with one_thread(), closing(self._workers.ordered(jobs)) as results:
            for spec in self._parameters:
                _begin(spec, writers, vector)
                for found in islice(results, len(cut[spec.name])):
                    for index, writer in enumerate(writers):
                        for bits in found.bits[index]:
                            writer.extend(f"mask.{spec.name}", bits)
                        sums[index].append(found.sums[index])
                    if vector is not None:
                        for block in found.vector:
                            vector.extend(spec.name, block)
        return sums

    def _cost(self, span: Span) -> int:
        elements = span.stop - span.start
        return 8 * 8 * span.step + elements * (8 + len(self._facts)) // 8 + 8 * elements

    def _marks(self, spec: TensorSpec, span: Span) -> _Marks:
        count = len(self._facts)
        found = _Marks([[] for _ in range(count)], [EmrSums(own=0, unified=0)] * count, [])
        for piece in self._stream.pieces(spec, span):
            total = self._merged(spec, piece)
            if self._plan.vector is not None:
                found.vector.append(total.to(TORCH_DTYPES[self._plan.vector[spec.name].dtype]))
            for index, maker in enumerate(piece.makers):
                bits, sums = self._mark(maker(), total, self._facts[index].weight)
                found.bits[index].append(bits)
                found.sums[index] += sums
        return found

    def _mark(self, delta: Tensor, total: Tensor, weight: float) -> tuple[Tensor, EmrSums]:
        if isinstance(self._method, Consensus):
            bits = tall_mask(delta.mul_(weight), total, self._method.share)
            return bits, EmrSums(own=0, unified=0)
        return emr_mask(delta, total), emr_sums(delta, total)

    def _merged(self, spec: TensorSpec, piece: Piece) -> Tensor:
        """The unified vector, or the sum, at a piece."""
        shape = (piece.elements,)
        block = Block(
            name=spec.name,
            tensor_shape=spec.shape,
            shape=shape,
            base=piece.base,
            precision=self._plan.precision,
        )
        return merge_block(self._unified, block, Shaped(piece.makers, shape), self._facts)


def write_experts(
    folder: Path,
    plan: ExpertPlan,
    base: RangeReader,
    *,
    resume: bool = False,
    workers: Workers | None = None,
    meter: Meter | None = None,
    accept: Callable[[], None] | None = None,
) -> None:
    """Write the set of experts of a finished merge; see the head of this module.

    Args:
        folder: appears whole.
        plan: what is to be written; its contributions are read once more.
        base: what the merge was based on.
        resume: take a set that is there already, if it is this one.
        workers: threads and memory; one thread where nothing is said.
        meter: counts what is read.
        accept: called when all is written; what it raises keeps the folder from appearing.

    Raises:
        BadPath: something is there, or it cannot be written.
        OtherPlan: another set is there.
        InUse: another process writes there.
        CannotMerge: an expert of which nothing is in the unified vector.
        DiskFull: no room.
    """
    require_place(folder, resume)
    if occupied(folder):
        _require_this_set(folder, plan)
        return
    with _new_set(folder, resume) as made:
        ExpertPass(plan, base, workers or Workers(), meter or Meter()).write(made)
        if accept is not None:
            accept()


def _begin(
    spec: TensorSpec, writers: Sequence[SafetensorsWriter], vector: SafetensorsWriter | None
) -> None:
    """A tensor without elements has no span, and is written all the same."""
    if spec.elements:
        return
    for writer in writers:
        writer.write(f"mask.{spec.name}", [])
    if vector is not None:
        vector.write(spec.name, [])


def _require_this_set(folder: Path, plan: ExpertPlan) -> None:
    files: dict[str, Mapping[str, str]] = {
        expert.file_name: expert.metadata for expert in plan.experts
    }
    if plan.vector is not None:
        files[VECTOR_NAME] = plan.vector_metadata
    for name, metadata in files.items():
        if not same_file(folder / name, metadata):
            raise OtherPlan(
                f"{folder}: exists and its {name} is not of this merge; choose another folder, "
                "or remove it"
            )


@contextmanager
def _new_set(folder: Path, resume: bool) -> Iterator[Path]:
    """A folder that takes its name when all is in it; nothing else is ever left but by a kill."""
    made = PartialFolder(folder)
    made.claim(resume=resume)
    ours = False
    try:
        left = made.contents()
        foreign = next((name for name in left if not name.endswith(SUFFIX)), None)
        if foreign is not None:
            raise BadPath(f"{made.folder}: holds {foreign}, which is no expert; move it away")
        ours = True
        for name in left:
            os.unlink(made.folder / name)
        yield made.folder
        made.publish()
        ours = False
    finally:
        made.leave(remove=ours)
