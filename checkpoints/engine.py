"""Merging checkpoints as streams: many readers in, one sink out, flat memory.

Tensors pass one after the other, in blocks; of each contribution one block is in memory
at a time (one whole tensor, where the method must see it whole). Parameters go through
the method; running statistics and buffers are those of `own`. One call works on one
thread, so the bytes depend on the inputs and on nothing else.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.writer import TensorSink
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.deltas import GramSum, TaskVectors
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.method import Facts, Method, Need, Scope

PIECE_ELEMENTS: Final = 2**16
"""Blocks are worked on in pieces that stay in a core's cache: 512 KiB in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A checkpoint given to a merge; names are distinct within it."""

    name: str
    reader: TensorReader
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaStatistics:
    """What guards want to know of the task vectors of some contributions.

    Attributes:
        names: of the contributions, in the order given.
        norms: (n,), float64; Euclidean, over all parameters.
        gram: (n, n), float64; inner products, exactly symmetric.
        non_finite: which tensors of a contribution hold a NaN or an infinity; has only
            those that hold some. Their norms, rows and columns are NaN.
    """

    names: tuple[str, ...]
    norms: npt.NDArray[np.float64]
    gram: npt.NDArray[np.float64]
    non_finite: Mapping[str, tuple[str, ...]]


def merge(
    method: Method,
    base: TensorReader | None,
    contributions: Sequence[Contribution],
    own: TensorReader,
    sink: TensorSink,
    *,
    only: Collection[str] | None = None,
) -> None:
    """Merge contributions into a sink, tensor by tensor in the order of `own`'s schema.

    theta_out = base + merged task vector, computed in float64 and rounded to the dtype
    of `own` (to eight and sixteen bits by way of float32, as torch rounds).

    Args:
        method: what is done with the parameters.
        base: what task vectors are taken from; None: from zero.
        contributions: finetuned models. Those of weight zero are not read; their order
            matters to sequential methods only.
        own: gives schema, output dtypes, running statistics and buffers.
        sink: takes the merged tensors.
        only: restricts the merge to these tensors of `own`.

    Raises:
        CannotMerge: no contribution, two of one name, or no base where one is needed.
        SchemaMismatch: a tensor is missing somewhere or has another shape.
        NonFinite: a NaN or an infinity goes in or comes out; names the tensor.
        OutOfBound, FoldFull: values too large for an exact sum.
    """
    present = [item for item in contributions if item.weight != 0]
    _require_mergeable(method, base, present)
    specs = _selected(own.schema, only)
    _require_alike(specs, base, present)
    with _one_thread():
        job = _Merge(method, base, present)
        for spec in specs:
            blocks = job.blocks(spec) if spec.kind == "parameter" else own.blocks(spec.name)
            sink.write(spec.name, blocks)


def measure(contributions: Sequence[Contribution], base: TensorReader | None) -> DeltaStatistics:
    """Norms and inner products of task vectors over all parameters, in one pass.

    Weights play no part. Where one contribution is not finite, the others are measured
    all the same.

    Raises:
        CannotMerge: no contribution, or two of one name.
        SchemaMismatch: a tensor is missing somewhere or has another shape.
    """
    names = _require_names(contributions)
    specs = contributions[0].reader.schema.parameters
    _require_alike(specs, base, contributions)
    sums = GramSum(len(names))
    bad: dict[int, list[str]] = {}
    with _one_thread():
        for spec in specs:
            for index in _measure_tensor(spec, base, contributions, sums):
                bad.setdefault(index, []).append(spec.name)
        gram, norms = sums.gram(), sums.norms()
    spoiled = sorted(bad)
    norms[spoiled] = torch.nan
    gram[spoiled, :] = torch.nan
    gram[:, spoiled] = torch.nan
    return DeltaStatistics(
        names=names,
        norms=norms.numpy(),
        gram=gram.numpy(),
        non_finite={names[index]: tuple(bad[index]) for index in spoiled},
    )


class _Merge:
    """One merge under way: turns the specification of a parameter into its blocks."""

    def __init__(
        self, method: Method, base: TensorReader | None, contributions: Sequence[Contribution]
    ) -> None:
        self._method = method
        self._base = base
        self._contributions = contributions
        self._facts = in_proportion(method, _facts(method, base, contributions))

    def blocks(self, spec: TensorSpec) -> Iterator[Tensor]:
        """The merged tensor, flat; checked to be finite."""
        whole = self._method.scope(spec.name, spec.shape) is Scope.MATRIX
        start = 0
        for merged in self._whole(spec) if whole else self._streamed(spec):
            _require_finite(merged, spec, start)
            start += merged.numel()
            yield merged

    def _whole(self, spec: TensorSpec) -> Iterator[Tensor]:
        if spec.elements == 0:
            return
        base = None if self._base is None else self._base.read(spec.name).to(torch.float64)
        deltas = TaskVectors(
            [partial(item.reader.read, spec.name) for item in self._contributions], base
        )
        out = torch.empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype])
        self._merge_into(out, spec, deltas, base)
        yield out.reshape(-1)

    def _streamed(self, spec: TensorSpec) -> Iterator[Tensor]:
        for base_block, blocks in _lockstep(spec, self._base, self._contributions):
            out = torch.empty(blocks[0].numel(), dtype=TORCH_DTYPES[spec.dtype])
            for piece in _pieces(out.numel()):
                base = None if base_block is None else base_block[piece].to(torch.float64)
                deltas = TaskVectors([partial(_cut, block, piece) for block in blocks], base)
                self._merge_into(out[piece], spec, deltas, base)
            yield out

    def _merge_into(
        self, out: Tensor, spec: TensorSpec, deltas: TaskVectors, base: Tensor | None
    ) -> None:
        block = Block(name=spec.name, tensor_shape=spec.shape, shape=tuple(out.shape), base=base)
        merged = merge_block(self._method, block, deltas, self._facts)
        out.copy_(merged if base is None else merged + base)


def _lockstep(
    spec: TensorSpec, base: TensorReader | None, contributions: Sequence[Contribution]
) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """The same block of the base and of every contribution, one block after the other."""
    readers = [item.reader for item in contributions]
    streams = [
        reader.blocks(spec.name) for reader in (readers if base is None else [base, *readers])
    ]
    for blocks in zip(*streams, strict=True):
        if len({block.numel() for block in blocks}) != 1:
            raise SchemaMismatch(f"tensor {spec.name!r}: the readers cut it into unlike blocks")
        yield (None, list(blocks)) if base is None else (blocks[0], list(blocks[1:]))


def _cut(block: Tensor, piece: slice) -> Tensor:
    return block[piece]


def _pieces(elements: int) -> Iterator[slice]:
    for start in range(0, elements, PIECE_ELEMENTS):
        yield slice(start, min(start + PIECE_ELEMENTS, elements))


def _measure_tensor(
    spec: TensorSpec,
    base: TensorReader | None,
    contributions: Sequence[Contribution],
    sums: GramSum,
) -> list[int]:
    """Count one tensor in; the indices of those that are not finite in it."""
    bad: set[int] = set()
    rows = torch.empty(
        (len(contributions), min(PIECE_ELEMENTS, spec.elements)), dtype=torch.float64
    )
    for base_block, blocks in _lockstep(spec, base, contributions):
        for piece in _pieces(blocks[0].numel()):
            deltas = rows[:, : piece.stop - piece.start]
            for row, block in zip(deltas, blocks, strict=True):
                row.copy_(block[piece])
            if base_block is not None:
                deltas.sub_(base_block[piece].to(torch.float64))
            squares = sums.add(deltas)
            # A square that is not finite may still be of finite values, only huge.
            for index in (~squares.isfinite()).nonzero().flatten().tolist():
                if not bool(deltas[index].isfinite().all()):
                    bad.add(index)
    return sorted(bad)


def _facts(
    method: Method, base: TensorReader | None, contributions: Sequence[Contribution]
) -> list[Facts]:
    norms: list[float | None] = [None] * len(contributions)
    if Need.NORM in method.needs:
        norms = [float(norm) for norm in measure(contributions, base).norms]
    return [
        Facts(contribution=item.name, weight=item.weight, norm=norm)
        for item, norm in zip(contributions, norms, strict=True)
    ]


def _selected(schema: Schema, only: Collection[str] | None) -> tuple[TensorSpec, ...]:
    """The tensors to be merged, in the schema's order; refuses names it does not have."""
    wanted = set(schema.names) if only is None else {schema[name].name for name in only}
    return tuple(spec for spec in schema if spec.name in wanted)


def _require_mergeable(
    method: Method, base: TensorReader | None, contributions: Sequence[Contribution]
) -> None:
    _require_names(contributions)
    if base is None and Need.BASE in method.needs:
        raise CannotMerge(
            f"method {type(method).__name__} works on task vectors and needs a base; there is"
            " none here: give one, or use a method such as mean"
        )


def _require_names(contributions: Sequence[Contribution]) -> tuple[str, ...]:
    names = tuple(item.name for item in contributions)
    if not names:
        raise CannotMerge("nothing to merge: no contribution has a weight other than zero")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CannotMerge(f"two contributions are called {twice!r}; names must be distinct")
    return names


def _require_alike(
    specs: Sequence[TensorSpec], base: TensorReader | None, contributions: Sequence[Contribution]
) -> None:
    """Every parameter is in every reader, with one shape; dtypes may differ."""
    readers = {item.name: item.reader for item in contributions}
    for name, reader in readers.items():
        _require_tensors(specs, reader.schema, name)
    if base is not None:
        _require_tensors(specs, base.schema, "the base")


def _require_tensors(specs: Sequence[TensorSpec], schema: Schema, where: str) -> None:
    for spec in specs:
        if spec.kind != "parameter":
            continue
        if spec.name not in schema:
            raise SchemaMismatch(f"{where}: tensor {spec.name!r} is missing")
        found = schema[spec.name]
        if found.shape != spec.shape or found.kind != spec.kind:
            raise SchemaMismatch(
                f"{where}: tensor {spec.name!r} is {found.describe()}, expected {spec.describe()}"
            )


def _require_finite(merged: Tensor, spec: TensorSpec, start: int) -> None:
    values = merged if merged.dtype in (torch.float32, torch.float64) else merged.float()
    if values.numel() == 0 or all(math.isfinite(end.item()) for end in torch.aminmax(values)):
        return
    index = int((~values.isfinite()).nonzero()[0].item())
    raise NonFinite(
        f"tensor {spec.name!r}: the merge gave {values[index].item()} at element {start + index};"
        f" a contribution is not finite, or the result is beyond what {spec.dtype} holds"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Reductions and decompositions give other bytes on another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
