"""Merging checkpoints as streams: many readers in, one sink out, flat memory.

Tensors are cut into spans that are worked on apart, by several threads where asked for,
and written in order; within a span, pieces small enough for a core's cache pass one after
the other, of one contribution at a time. (One whole tensor, where the method must see it
whole.) Parameters go through the method; running statistics and buffers are those of
`own`. Every span is computed on one thread from the inputs alone, so the bytes do not
depend on the number of threads.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import NoReturn

import torch
from torch import Tensor

from weft.checkpoints.contribution import Contribution, require_alike, require_names
from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.dtypes import DTYPE_NAMES, TORCH_DTYPES
from weft.checkpoints.errors import NotEnoughMemory
from weft.checkpoints.measure import DeltaStatistics, measure
from weft.checkpoints.merge_spec import MergeSpec, Tailored
from weft.checkpoints.merger import Merger
from weft.checkpoints.parallel import Job, Workers, one_thread
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec
from weft.checkpoints.task_vectors import PIECE_ELEMENTS, Meter, Span, all_finite, spans
from weft.checkpoints.writer import TensorSink
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.method import Method, Need, Scope
from weft.merging.table import name_of

__all__ = [
    "PIECE_ELEMENTS",
    "Contribution",
    "DeltaStatistics",
    "MergeSpec",
    "Meter",
    "Tailored",
    "Workers",
    "measure",
    "merge",
]


def merge(
    method: Method | MergeSpec,
    base: TensorReader | None,
    contributions: Sequence[Contribution],
    own: TensorReader,
    sink: TensorSink,
    *,
    only: Collection[str] | None = None,
    workers: Workers | None = None,
    meter: Meter | None = None,
) -> None:
    """Merge contributions into a sink, tensor by tensor in the order of `own`'s schema.

    theta_out = base + merged task vector, computed in the precision asked for and rounded
    once to the dtype of the sink (to eight and sixteen bits by way of float32, as torch
    rounds).

    Args:
        method: what is done with the parameters; a bare method: exactly, and nothing
            before or after it.
        base: what task vectors are taken from; None: from zero.
        contributions: finetuned models. Those of weight zero are not read; their order
            matters to sequential and `ordered` methods only.
        own: gives running statistics and buffers, and the order of the tensors.
        sink: takes the merged tensors; its schema gives their dtypes.
        only: restricts the merge to these tensors of `own`.
        workers: threads and memory; one thread where nothing is said.
        meter: counts the bytes that are read of parameters.

    Raises:
        CannotMerge: no contribution, two of one name, or no base where one is needed.
        SchemaMismatch: a tensor is missing somewhere or has another shape.
        NonFinite: a NaN or an infinity goes in or comes out; names the tensor.
        OutOfBound, FoldFull: values too large for an exact sum.
        NotEnoughMemory: the memory allowed does not hold what a method must see of a tensor at a
            time: the whole of it, where it says so.
    """
    spec = method if isinstance(method, MergeSpec) else MergeSpec(method=method)
    run = _Run(spec, base, contributions, own, sink, only, workers or Workers(), meter or Meter())
    run.prepare()
    run.write()


class _Run:
    """What one call of `merge` does, once all is checked."""

    def __init__(
        self,
        spec: MergeSpec,
        base: TensorReader | None,
        contributions: Sequence[Contribution],
        own: TensorReader,
        sink: TensorSink,
        only: Collection[str] | None,
        workers: Workers,
        meter: Meter,
    ) -> None:
        present = [item for item in contributions if item.weight != 0]
        _require_mergeable(spec, base, present)
        _require_device(spec)
        self._spec, self._own, self._sink, self._workers = spec, own, sink, workers
        self._tensors = _selected(own.schema, only)
        # Facts of whole models are of all that the contribution at hand holds.
        whole = own.schema.parameters
        mine = [tensor for tensor in self._tensors if tensor.kind == "parameter"]
        self._merger = Merger(spec, base, present, whole, workers, meter)
        require_alike(whole if spec.surveys else mine, base, present)
        self._require_memory(mine)

    def _require_memory(self, tensors: Sequence[TensorSpec]) -> None:
        """Refuse what the memory allowed does not hold, before anything is read."""
        budget = self._workers.budget
        for spec in tensors:
            cost = max((self._merger.cost(spec, span) for span in self._spans(spec)), default=0)
            if cost > budget:
                whole = self._spec.scope(spec) is Scope.MATRIX
                raise NotEnoughMemory(
                    f"tensor {spec.name!r}: {spec.describe()}, seen"
                    f" {'whole' if whole else 'piece by piece'} by"
                    f" {name_of(self._spec.method)}, takes about {cost} bytes of memory"
                    f" at a time; {budget} are allowed: allow more",
                    cost,
                )

    def prepare(self) -> None:
        """Find the facts."""
        with one_thread():
            self._merger.prepare()

    def write(self) -> None:
        """Merge into the sink."""
        cut = {spec.name: self._spans(spec) for spec in self._tensors}
        jobs = (
            self._job(spec, span)
            for spec in self._tensors
            if self._overlaps(spec)
            for span in cut[spec.name]
        )
        with one_thread(), closing(self._workers.ordered(jobs)) as results:
            for spec in self._tensors:
                if spec.kind != "parameter":
                    blocks = _converted(self._own.blocks(spec.name), self._dtype(spec), spec)
                elif self._overlaps(spec):
                    blocks = islice(results, len(cut[spec.name]))
                else:
                    blocks = self._streamed(spec, cut[spec.name])
                self._sink.write(spec.name, blocks)

    def _overlaps(self, spec: TensorSpec) -> bool:
        """Whether spans are worked on apart; else they are streamed one after the other."""
        return spec.kind == "parameter" and self._merger.seekable

    def _dtype(self, spec: TensorSpec) -> torch.dtype:
        return TORCH_DTYPES[self._sink.schema[spec.name].dtype]

    def _spans(self, spec: TensorSpec) -> list[Span]:
        if spec.kind != "parameter":
            return []
        piece = self._spec.piece_elements
        length = max(CHUNK_BYTES // DTYPE_BYTES[self._sink.schema[spec.name].dtype], piece)
        return list(spans(spec, self._spec.scope(spec), length, self._merger.seekable, piece))

    def _job(self, spec: TensorSpec, span: Span) -> Job[Tensor]:
        return Job(partial(self._merged, spec, span), self._merger.cost(spec, span))

    def _merged(self, spec: TensorSpec, span: Span) -> Tensor:
        out = torch.empty(span.stop - span.start, dtype=self._dtype(spec))
        filled = 0
        for piece in self._pieces(spec, span):
            out[filled : filled + piece.numel()] = piece
            filled += piece.numel()
        if not all_finite(out):
            self._merger.blame(spec, span)
            _refuse(out, spec, span.start)
        return out

    def _pieces(self, spec: TensorSpec, span: Span) -> Iterator[Tensor]:
        try:
            yield from self._merger.pieces(spec, span)
        except NonFinite:
            # Whoever looked at a sum knows the tensor only; this names the element as well.
            self._merger.blame(spec, span)
            raise

    def _streamed(self, spec: TensorSpec, cut: Sequence[Span]) -> Iterator[Tensor]:
        for span in cut:
            start = span.start
            for piece in self._pieces(spec, span):
                out = piece.to("cpu", self._dtype(spec))
                if not all_finite(out):
                    self._merger.blame(spec, Span(0, spec.elements, span.step))
                    _refuse(out, spec, start)
                start += out.numel()
                yield out


def _converted(blocks: Iterator[Tensor], dtype: torch.dtype, spec: TensorSpec) -> Iterator[Tensor]:
    """A tensor that is not merged, in another dtype; statistics must be finite in it."""
    start = 0
    for block in blocks:
        out = block.to(dtype)
        if out.is_floating_point() and not all_finite(out):
            _refuse(out, spec, start)
        start += out.numel()
        yield out


def _selected(schema: Schema, only: Collection[str] | None) -> tuple[TensorSpec, ...]:
    """The tensors to be merged, in the schema's order; refuses names it does not have."""
    wanted = set(schema.names) if only is None else {schema[name].name for name in only}
    return tuple(spec for spec in schema if spec.name in wanted)


def _require_mergeable(
    spec: MergeSpec, base: TensorReader | None, contributions: Sequence[Contribution]
) -> None:
    require_names(contributions)
    most = spec.method.most
    if most is not None and len(contributions) > most:
        raise CannotMerge(
            f"method {name_of(spec.method)} takes at most {most} contributions;"
            f" {len(contributions)} have a weight other than zero"
        )
    needy = next((step for step in spec.steps if Need.BASE in step.needs), None)
    # Without a base a step would change the weights themselves.
    needy = needy or next((step for step in spec.steps if step is not spec.method), None)
    if base is None and needy is not None:
        raise CannotMerge(
            f"method {name_of(needy)} works on task vectors and needs a base; there is"
            " none here: give one, or use a method such as mean"
        )


def _require_device(spec: MergeSpec) -> None:
    bound = next((step for step in spec.steps if step.cpu_only), None)
    if spec.device != "cpu" and bound is not None:
        raise CannotMerge(f"{name_of(bound)} computes on the CPU only; leave the device out")


def _refuse(merged: Tensor, spec: TensorSpec, start: int) -> NoReturn:
    values = merged.double()
    index = int((~values.isfinite()).nonzero()[0].item())
    raise NonFinite(
        f"tensor {spec.name!r}: the merge gave {values[index].item()} at element {start + index};"
        f" what goes in is not finite, or the result is beyond what {DTYPE_NAMES[merged.dtype]}"
        " holds"
    )
