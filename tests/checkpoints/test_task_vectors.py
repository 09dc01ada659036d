"""Spans and pieces: every element once, in its place; and what is not a number is named."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.task_vectors import (
    CheckpointStream,
    Meter,
    Span,
    TransformedStream,
    all_finite,
    row_of,
    shape_of,
    spans,
    widest,
)
from weft.merging.errors import NonFinite
from weft.merging.method import Facts, Scope
from weft.merging.methods.negate import Negate

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
FLOATS = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


@settings(max_examples=300, deadline=None)
@given(
    shape=SHAPES,
    scope=st.sampled_from(Scope),
    length=st.integers(1, 400),
    piece=st.integers(1, 200),
    seekable=st.booleans(),
)
def test_spans_hold_every_element_once_and_whole_rows(
    shape: tuple[int, ...], scope: Scope, length: int, piece: int, seekable: bool
) -> None:
    spec = TensorSpec("w", "F32", shape)
    found = list(spans(spec, scope, length, seekable, piece))
    if not spec.elements:
        assert found == []
        return
    edges = [0, *(span.stop for span in found)]
    assert [span.start for span in found] == edges[:-1]
    assert edges[-1] == spec.elements
    assert all(span.start < span.stop and span.step > 0 for span in found)
    whole = scope is Scope.MATRIX or (scope is Scope.ROW and not seekable)
    if whole or not seekable:
        assert len(found) == 1
    if whole:
        assert found[0].step == spec.elements
    unit = row_of(spec) if scope is Scope.ROW else 1
    for span in found:
        assert span.start % unit == 0
        assert span.step % unit == 0
        if not whole:
            assert span.step <= max(piece, unit)
        if not whole and seekable:
            assert span.stop - span.start <= max(length, unit)


@pytest.mark.parametrize(
    ("shape", "scope", "elements", "seen"),
    [
        ((), Scope.ELEMENT, 1, (1,)),
        ((), Scope.ROW, 1, (1, 1)),
        ((), Scope.MATRIX, 1, ()),
        ((5,), Scope.ROW, 5, (1, 5)),
        ((4, 3, 2), Scope.ROW, 12, (2, 6)),
        ((4, 3, 2), Scope.ELEMENT, 12, (12,)),
        ((4, 3, 2), Scope.MATRIX, 24, (4, 3, 2)),
    ],
)
def test_what_a_method_sees(
    shape: tuple[int, ...], scope: Scope, elements: int, seen: tuple[int, ...]
) -> None:
    assert shape_of(TensorSpec("w", "F32", shape), scope, elements) == seen


def test_the_widest_scope_shows_all_enough() -> None:
    assert widest([Scope.ELEMENT, Scope.ROW, Scope.MATRIX]) is Scope.MATRIX
    assert widest([Scope.ROW, Scope.ELEMENT]) is Scope.ROW
    assert widest([]) is Scope.ELEMENT


def stream_of(
    base: Tensor | None, *models: Tensor, dtype: torch.dtype = torch.float64
) -> CheckpointStream:
    finetuned = {f"m{place}": MemoryReader({"w": model}) for place, model in enumerate(models)}
    origin = None if base is None else MemoryReader({"w": base})
    return CheckpointStream(origin, dict(finetuned), dtype, Meter())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("with_base", [True, False])
def test_pieces_put_together_are_the_task_vectors(
    dtype: torch.dtype, stored: torch.dtype, with_base: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    base, one, two = (torch.randn(50, generator=generator).to(stored) for _ in range(3))
    spec = TensorSpec("w", "F32", (50,))
    stream = stream_of(base if with_base else None, one, two, dtype=dtype)
    parts: list[list[Tensor]] = [[], []]
    places = []
    for span in (Span(0, 20, 7), Span(20, 50, 13)):
        for piece in stream.pieces(spec, span):
            places.append((piece.offset, piece.elements))
            assert (piece.base is not None) is with_base
            for part, maker in zip(parts, piece.makers, strict=True):
                part.append(maker())
                assert torch.equal(part[-1], maker())
    assert places == [(0, 7), (7, 7), (14, 6), (20, 13), (33, 13), (46, 4)]
    for part, model in zip(parts, (one, two), strict=True):
        expected = model.to(dtype) - (base.to(dtype) if with_base else 0)
        assert torch.equal(torch.cat(part), expected)


class Exact(DeltaReader):
    """A model whose task vector is known, and is not what its values say."""

    def __init__(self, delta: Tensor) -> None:
        self._delta = MemoryReader({"w": delta})

    @property
    def schema(self) -> Schema:
        return self._delta.schema

    @property
    def metadata(self) -> dict[str, str]:
        return {}

    @property
    def where(self) -> str:
        return "exact"

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        raise AssertionError("its values are not asked for")

    def close(self) -> None:
        pass

    def delta_ranges(
        self, name: str, start: int, stop: int, step: int, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        return (block.to(dtype) for block in self._delta.ranges(name, start, stop, step))


def test_a_task_vector_that_is_at_hand_is_not_taken_again() -> None:
    delta = torch.tensor([1e-9, 2e-9, 3e-9], dtype=torch.float64)
    base = MemoryReader({"w": torch.ones(3)})
    stream = CheckpointStream(base, {"a": Exact(delta)}, torch.float64, Meter())
    (piece,) = stream.pieces(TensorSpec("w", "F32", (3,)), Span(0, 3, 10))
    assert torch.equal(piece.makers[0](), delta)


def test_a_transform_is_told_the_place() -> None:
    inner = stream_of(None, torch.arange(10.0), torch.arange(10.0))
    seen: list[tuple[int, int]] = []

    def step_of(index: int, spec: TensorSpec, offset: int) -> tuple[Negate, Facts] | None:
        seen.append((index, offset))
        return (Negate(), Facts(contribution="x")) if index else None

    stream = TransformedStream(inner, step_of)
    assert (stream.names, stream.seekable) == (inner.names, True)
    spec = TensorSpec("w", "F32", (10,))
    found = [[maker() for maker in p.makers] for p in stream.pieces(spec, Span(0, 10, 4))]
    assert torch.equal(torch.cat([pair[0] for pair in found]), torch.arange(10.0).double())
    assert torch.equal(torch.cat([pair[1] for pair in found]), -torch.arange(10.0).double())
    assert seen == [(index, offset) for offset in (0, 4, 8) for index in (0, 1)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_element_is_found_wherever_it_is(dtype: torch.dtype, value: float) -> None:
    if dtype is torch.float8_e4m3fn:
        value = math.nan  # it has no infinities
    for place in (0, 1, 63, 99):
        values = torch.linspace(-50, 50, 100).to(dtype)
        assert all_finite(values)
        values[place] = value
        assert not all_finite(values)
        with pytest.raises(NonFinite, match=rf"m0, tensor 'w': .* found at element {place},"):
            made(stream_of(None, values), 100)


def made(stream: CheckpointStream, elements: int) -> list[Tensor]:
    pieces = stream.pieces(TensorSpec("w", "F32", (elements,)), Span(0, elements, 30))
    return [piece.makers[0]() for piece in pieces]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_ends_of_a_dtype_are_finite(dtype: torch.dtype) -> None:
    ends = torch.finfo(dtype)
    assert all_finite(
        torch.tensor([ends.max, ends.min, ends.tiny, -0.0], dtype=torch.float64).to(dtype)
    )
    assert all_finite(torch.empty(0).to(dtype))


def test_the_base_is_named_too() -> None:
    base = torch.tensor([0.0, math.nan])
    with pytest.raises(NonFinite, match="the base, tensor 'w': nan found at element 1,"):
        list(stream_of(base, torch.ones(2)).pieces(TensorSpec("w", "F32", (2,)), Span(0, 2, 2)))


class Short(MemoryReader):
    """Gives blocks of its own length."""

    decodes = True

    def ranges(self, name: str, start: int, stop: int, step: int) -> Iterator[Tensor]:
        return super().ranges(name, start, stop, step + 1)


@pytest.mark.parametrize("which", ["base", "model"])
def test_readers_that_cut_otherwise_are_refused(which: str) -> None:
    readers: list[RangeReader] = [MemoryReader({"w": torch.ones(9)}) for _ in range(3)]
    readers[0 if which == "base" else 2] = Short({"w": torch.ones(9)})
    stream = CheckpointStream(
        readers[0], {"a": readers[1], "b": readers[2]}, torch.float64, Meter()
    )
    with pytest.raises(SchemaMismatch, match="tensor 'w': the readers cut it into unlike blocks"):
        list(stream.pieces(TensorSpec("w", "F32", (9,)), Span(0, 9, 4)))


def test_a_meter_tells_now_and_then() -> None:
    told: list[int] = []
    meter = Meter(told.append)
    for _ in range(100):
        meter.add(2**20)
    assert meter.total == 100 * 2**20
    assert told == [16 * 2**20] * 6


def test_bytes_read_are_those_of_all_files() -> None:
    meter = Meter()
    base = MemoryReader({"w": torch.ones(10)})
    half = MemoryReader({"w": torch.ones(10).half()})
    stream = CheckpointStream(base, {"a": half, "b": half}, torch.float64, meter)
    for piece in stream.pieces(TensorSpec("w", "F32", (10,)), Span(0, 10, 3)):
        for maker in piece.makers:
            maker()
    assert meter.total == 40 + 2 * 20
