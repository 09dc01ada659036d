"""The task vectors of checkpoints as streams of pieces.

A piece is small enough to stay in a core's cache; of each contribution one piece is in
memory at a time, and its task vector is made when it is its turn. Streams are chained:
checkpoints give the first, a transform makes one from another.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import torch
from torch import Tensor

from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import RangeReader, TensorReader
from weft.checkpoints.schema import TensorSpec
from weft.merging.errors import NonFinite
from weft.merging.method import Facts, Scope, Transform

PIECE_ELEMENTS: Final = 2**18
"""Blocks are worked on in pieces that a cache holds: 1 MiB in float32."""

WATCHED_BYTES: Final = 2**24

Maker: TypeAlias = Callable[[], Tensor]
_Block: TypeAlias = tuple[int, Maker]
"""How many elements, and what gives them."""
StepOf: TypeAlias = Callable[[int, TensorSpec, int], tuple[Transform, Facts] | None]


@dataclass(frozen=True, slots=True)
class Span:
    """Elements `start` to `stop` of a flat tensor, in pieces of `step` elements."""

    start: int
    stop: int
    step: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The same place in every contribution; valid until the next piece is asked for.

    Attributes:
        offset: of its first element in the flat tensor.
        elements: how many.
        base: the base there, flat, in the stream's dtype, where there is one.
        makers: give each contribution's task vector there, flat, in the stream's dtype.
    """

    offset: int
    elements: int
    base: Tensor | None
    makers: tuple[Maker, ...]


class Shaped:
    """The task vectors of a piece in a shape, each made when it is its turn."""

    def __init__(self, makers: Sequence[Maker], shape: tuple[int, ...]) -> None:
        self._makers = makers
        self._shape = shape

    def __iter__(self) -> Iterator[Tensor]:
        return (maker().reshape(self._shape) for maker in self._makers)


class Meter:
    """Counts bytes that were read; threads may share it.

    Args:
        watch: called now and then with how many more were read.
    """

    def __init__(self, watch: Callable[[int], None] | None = None) -> None:
        self.total = 0
        self._told = 0
        self._watch = watch
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many more."""
        with self._lock:
            self.total += count
            if self._watch is not None and self.total - self._told >= WATCHED_BYTES:
                self._watch(self.total - self._told)
                self._told = self.total


class Stream(ABC):
    """Task vectors of some contributions, piece by piece."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the contributions, in their order."""

    @property
    @abstractmethod
    def seekable(self) -> bool:
        """Whether a span may begin and end within a tensor."""

    @abstractmethod
    def pieces(self, spec: TensorSpec, span: Span) -> Iterator[Piece]:
        """The pieces of one span, one after the other."""


class CheckpointStream(Stream):
    """Finetuned minus base, as the files have them.

    Args:
        base: None: nothing is subtracted.
        finetuned: by the contributions' names.
        dtype: float64 or float32, in which the task vectors are taken.
        meter: counts what is read.
        device: where the task vectors are made.
        checked: look for NaN and infinities in all that is read; not needed where the
            method passes them on to its result.
        called: by the contributions' names, what messages call them.
    """

    def __init__(
        self,
        base: TensorReader | None,
        finetuned: dict[str, TensorReader],
        dtype: torch.dtype,
        meter: Meter,
        device: str = "cpu",
        *,
        checked: bool = True,
        called: Mapping[str, str] | None = None,
    ) -> None:
        self._base = base
        self._called = dict(called or {})
        self._device = torch.device(device)
        self.checked = checked
        self._finetuned = finetuned
        self._dtype = dtype
        self._meter = meter

    @property
    def names(self) -> tuple[str, ...]:
        """Of the contributions."""
        return tuple(self._finetuned)

    @property
    def seekable(self) -> bool:
        """Whether all files are."""
        readers = [*self._finetuned.values(), *([] if self._base is None else [self._base])]
        return all(isinstance(reader, RangeReader) for reader in readers)

    def pieces(self, spec: TensorSpec, span: Span) -> Iterator[Piece]:
        """All files, read in step."""
        streams = [self._blocks(reader, spec, span) for reader in self._finetuned.values()]
        base = None if self._base is None else _ranges(self._base, spec, span)
        offset = span.start
        for blocks in zip(*streams, strict=True):
            count = {elements for elements, _ in blocks}
            origin = self._origin(base, spec, offset)
            if len(count) != 1 or (origin is not None and origin.numel() not in count):
                raise SchemaMismatch(f"tensor {spec.name!r}: the readers cut it into unlike blocks")
            makers = tuple(
                partial(self._delta, name, spec, offset, read, origin)
                for name, (_, read) in zip(self.names, blocks, strict=True)
            )
            yield Piece(offset, blocks[0][0], origin, makers)
            offset += blocks[0][0]

    def _blocks(self, reader: TensorReader, spec: TensorSpec, span: Span) -> Iterator[_Block]:
        """What is plain bytes is read when it is its turn: no buffer for each of many files."""
        if isinstance(reader, RangeReader) and not reader.decodes:
            for start in range(span.start, span.stop, span.step):
                stop = min(start + span.step, span.stop)
                yield stop - start, partial(reader.piece, spec.name, start, stop)
            return
        for block in self._decoded(reader, spec, span):
            yield block.numel(), partial(_same, block)

    def _decoded(self, reader: TensorReader, spec: TensorSpec, span: Span) -> Iterator[Tensor]:
        if isinstance(reader, DeltaReader):
            return reader.delta_ranges(spec.name, span.start, span.stop, span.step, self._dtype)
        return _ranges(reader, spec, span)

    def _origin(
        self, base: Iterator[Tensor] | None, spec: TensorSpec, offset: int
    ) -> Tensor | None:
        if base is None:
            return None
        block = next(base)
        self._meter.add(block.nbytes)
        if self.checked:
            require_finite(block, "the base", spec, offset)
        return block.to(self._device, self._dtype, copy=True)

    def _delta(
        self, name: str, spec: TensorSpec, offset: int, read: Maker, origin: Tensor | None
    ) -> Tensor:
        block = read()
        self._meter.add(block.nbytes)
        if self.checked:
            require_finite(block, self._called.get(name, name), spec, offset)
        # A copy also where the dtype fits: the block is its reader's.
        delta = block.to(self._device, self._dtype, copy=True)
        if origin is None or isinstance(self._finetuned[name], DeltaReader):
            return delta
        return delta.sub_(origin)


class TransformedStream(Stream):
    """Another stream's task vectors, each changed by a transform of its own, or by none."""

    def __init__(self, inner: Stream, step_of: StepOf) -> None:
        self._inner = inner
        self._step_of = step_of

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the stream before it."""
        return self._inner.names

    @property
    def seekable(self) -> bool:
        """As the stream before it."""
        return self._inner.seekable

    def pieces(self, spec: TensorSpec, span: Span) -> Iterator[Piece]:
        """The same pieces, changed when they are asked for."""
        for piece in self._inner.pieces(spec, span):
            makers = tuple(
                partial(self._changed, maker, spec, piece.offset, index)
                for index, maker in enumerate(piece.makers)
            )
            yield Piece(piece.offset, piece.elements, piece.base, makers)

    def _changed(self, maker: Maker, spec: TensorSpec, offset: int, index: int) -> Tensor:
        step = self._step_of(index, spec, offset)
        delta = maker()
        if step is None:
            return delta
        transform, facts = step
        scope = transform.scope(spec.name, spec.shape)
        block = delta.reshape(shape_of(spec, scope, delta.numel()))
        with on(delta.device):
            return transform.apply(spec.name, block, facts).reshape(-1)


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """What methods make out of nothing is made there; costs nothing on the CPU."""
    if device.type == "cpu":
        yield
        return
    with device:
        yield


def shape_of(spec: TensorSpec, scope: Scope, elements: int) -> tuple[int, ...]:
    """The shape in which a method of that scope sees a piece of a tensor."""
    if scope is Scope.MATRIX:
        return spec.shape
    return (elements // max(row_of(spec), 1), row_of(spec)) if scope is Scope.ROW else (elements,)


def row_of(spec: TensorSpec) -> int:
    """Elements of one row: all but the first dimension; a vector is one row."""
    return math.prod(spec.shape[1:]) if len(spec.shape) > 1 else spec.elements


def widest(scopes: Sequence[Scope]) -> Scope:
    """The scope that shows all of them enough."""
    order = (Scope.MATRIX, Scope.ROW)
    return next((scope for scope in order if scope in scopes), Scope.ELEMENT)


def spans(
    spec: TensorSpec, scope: Scope, length: int, seekable: bool, piece: int = PIECE_ELEMENTS
) -> Iterator[Span]:
    """Cut a tensor into spans of about so many elements that may be worked on apart.

    Args:
        spec: of the tensor. One without elements has no span.
        scope: what the methods must see at a time.
        length: elements wanted; spans are whole rows or the whole tensor where the scope
            says so.
        seekable: otherwise there is one span, and rows are seen as the whole tensor.
        piece: elements of a piece, rounded to whole rows.
    """
    if spec.elements == 0:
        return
    if scope is Scope.MATRIX or (scope is Scope.ROW and not seekable):
        yield Span(0, spec.elements, spec.elements)
        return
    unit = row_of(spec) if scope is Scope.ROW else 1
    step = max(piece // unit, 1) * unit
    length = max(length // unit, 1) * unit if seekable else spec.elements
    for start in range(0, spec.elements, length):
        yield Span(start, min(start + length, spec.elements), step)


def _same(block: Tensor) -> Tensor:
    return block


def _ranges(reader: TensorReader, spec: TensorSpec, span: Span) -> Iterator[Tensor]:
    if isinstance(reader, RangeReader):
        return reader.ranges(spec.name, span.start, span.stop, span.step)
    if span.step >= spec.elements:
        return iter([reader.read(spec.name).reshape(-1)])
    return (
        block[start : start + span.step]
        for block in reader.blocks(spec.name)
        for start in range(0, block.numel(), span.step)
    )


def require_finite(block: Tensor, where: str, spec: TensorSpec, offset: int) -> None:
    """Refuse a NaN or an infinity before it can spoil, or vanish in, a merge.

    Raises:
        NonFinite: names contribution, tensor and element.
    """
    if all_finite(block):
        return
    values = block.to(torch.float64)
    index = int((~values.isfinite()).nonzero()[0].item())
    raise NonFinite(
        f"{where}, tensor {spec.name!r}: {values[index].item()} found at element"
        f" {offset + index}, expected finite numbers"
    )


_EXPONENTS: Final = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}


def all_finite(block: Tensor) -> bool:
    """Whether a block holds neither a NaN nor an infinity; any float dtype."""
    if block.numel() == 0:
        return True
    if block.dtype in _EXPONENTS and block.device.type == "cpu":
        # The largest magnitude as bits: several times as fast as looking at floats.
        bits = block.view(torch.int16).numpy() & 0x7FFF
        return int(bits.max()) < _EXPONENTS[block.dtype]
    values = block.float() if block.element_size() < 4 else block
    return all(math.isfinite(end.item()) for end in torch.aminmax(values))
