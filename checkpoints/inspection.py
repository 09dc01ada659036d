"""A model in figures: norms, extremes, what is not finite, and its task vector's sketch.

One pass over the model, and two over the task vector where a base is given; memory does
not grow with either.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.digest import ChunkHasher
from weft.checkpoints.dtypes import bytes_of
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.model_digest import hashed_entry
from weft.checkpoints.schema import BLOCK_ELEMENTS, FLOATING, TensorKind, TensorSpec, check
from weft.merging.magnitudes import magnitudes
from weft.merging.statistics.magnitude_histogram import FineHistogram, MagnitudeHistogram

__all__ = ["DENSITIES", "DeltaFacts", "Inspection", "TensorFacts", "inspect_model"]

DENSITIES: Final = (0.01, 0.05, 0.1, 0.2, 0.5)

Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """One tensor.

    Attributes:
        norm: Euclidean, over the finite values; None for integers and booleans.
        minimum, maximum: of the finite values; None where there are none.
        nan, infinite: how many values are.
        delta_norm: of its task vector; None without a base.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: TensorKind
    norm: float | None
    minimum: float | None
    maximum: float | None
    nan: int
    infinite: int
    delta_norm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFacts:
    """The task vector: model minus base, over all parameters.

    Attributes:
        norm: Euclidean, over its finite values.
        relative: to the norm of the base's parameters.
        changed: how many elements differ from the base's.
        cuts: by density d: the magnitude that exactly the ceil(d n) largest of n elements
            reach (more where several are equal), as float32. Empty where the task vector
            is not finite.
    """

    norm: float
    relative: float | None
    changed: int
    cuts: dict[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        digest: as `put_model` gives it; None where it was not asked for.
        norm: of all parameters together.
        tensors: in the order of their names.
        delta: None without a base.
    """

    digest: str | None
    norm: float
    tensors: tuple[TensorFacts, ...]
    delta: DeltaFacts | None

    @property
    def not_finite(self) -> tuple[TensorFacts, ...]:
        """The tensors that hold a NaN or an infinity."""
        return tuple(facts for facts in self.tensors if facts.nan or facts.infinite)


@dataclass(slots=True)
class _Count:
    """Sums over blocks."""

    squares: float = 0.0
    nan: int = 0
    infinite: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, values: Tensor) -> None:
        """Count values, any dtype; integers are compared as float64."""
        exact = values.to(torch.float64)
        finite = exact.isfinite()
        if not bool(finite.all()):
            self.nan += int(exact.isnan().sum())
            self.infinite += int(exact.isinf().sum())
            exact = exact[finite]
        if exact.numel():
            self.squares += float(torch.dot(exact, exact))
            low, high = torch.aminmax(exact)
            self.minimum = min(self.minimum, float(low))
            self.maximum = max(self.maximum, float(high))


@dataclass(slots=True)
class _Delta:
    """Sums over a task vector."""

    values: _Count = field(default_factory=_Count)
    base_squares: float = 0.0
    changed: int = 0
    elements: int = 0
    histogram: MagnitudeHistogram = field(default_factory=MagnitudeHistogram)


def inspect_model(
    reader: RangeReader,
    base: RangeReader | None = None,
    *,
    digest: bool = True,
    densities: Sequence[float] = DENSITIES,
    advance: Advance = lambda _: None,
) -> Inspection:
    """Read a model and say what it is.

    Args:
        reader: the model.
        base: what its task vector is taken from.
        digest: whether to hash it as well.
        densities: at which the task vector's magnitudes are ranked, each above 0, at most 1.
        advance: told how many bytes of the model were read, now and then; a base makes
            two passes of it.

    Raises:
        SchemaMismatch: the base has other tensors.
        Corrupt: bytes that are not what they claim to be.
    """
    if base is not None:
        check(reader.schema, base.schema, f"{reader.where}, beside {base.where}")
    delta = _Delta()
    tensors, entries, squares = [], [], 0.0
    for spec in reader.schema:
        hasher = ChunkHasher() if digest else None
        facts, square = _tensor(spec, reader, base, hasher, delta, advance)
        tensors.append(facts)
        squares += square
        if hasher is not None:
            entries.append(hashed_entry(spec, hasher))
    return Inspection(
        digest=Manifest(kind="model", tensors=tuple(entries)).digest if digest else None,
        norm=math.sqrt(squares),
        tensors=tuple(tensors),
        delta=None if base is None else _delta_facts(delta, reader, base, densities, advance),
    )


def _tensor(
    spec: TensorSpec,
    reader: RangeReader,
    base: RangeReader | None,
    hasher: ChunkHasher | None,
    delta: _Delta,
    advance: Advance,
) -> tuple[TensorFacts, float]:
    count = _Count()
    for block in reader.blocks(spec.name):
        if hasher is not None:
            hasher.update(bytes_of(block))
        count.add(block)
        advance(block.nbytes)
    merged, moved = spec.kind == "parameter", None
    if base is not None and merged:
        moved = math.sqrt(_add_delta(spec, reader, base, delta))
    facts = TensorFacts(
        name=spec.name,
        dtype=spec.dtype,
        shape=spec.shape,
        kind=spec.kind,
        norm=math.sqrt(count.squares) if spec.dtype in FLOATING else None,
        minimum=count.minimum if count.minimum <= count.maximum else None,
        maximum=count.maximum if count.minimum <= count.maximum else None,
        nan=count.nan,
        infinite=count.infinite,
        delta_norm=moved,
    )
    return facts, count.squares if merged else 0.0


def _add_delta(spec: TensorSpec, reader: RangeReader, base: RangeReader, delta: _Delta) -> float:
    """Count one tensor's task vector in; returns its sum of squares."""
    own = _Count()
    for origin, block in _deltas(spec, reader, base):
        own.add(block)
        delta.changed += int(torch.count_nonzero(block))
        delta.elements += block.numel()
        delta.base_squares += float(torch.dot(origin, origin))
        if not (own.nan or own.infinite):
            delta.histogram.add(magnitudes(block))
    delta.values.squares += own.squares
    delta.values.nan += own.nan
    delta.values.infinite += own.infinite
    return own.squares


def _deltas(
    spec: TensorSpec, reader: RangeReader, base: RangeReader
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of the base and of the task vector, float64."""
    span = (spec.name, 0, spec.elements, BLOCK_ELEMENTS)
    if isinstance(reader, DeltaReader):
        deltas = reader.delta_ranges(*span, torch.float64)
    else:
        deltas = (block.to(torch.float64) for block in reader.ranges(*span))
    for origin, block in zip(base.ranges(*span), deltas, strict=True):
        exact = origin.to(torch.float64)
        yield exact, block if isinstance(reader, DeltaReader) else block - exact


def _delta_facts(
    delta: _Delta,
    reader: RangeReader,
    base: RangeReader,
    densities: Sequence[float],
    advance: Advance,
) -> DeltaFacts:
    cuts: dict[float, float] = {}
    if delta.elements and not (delta.values.nan or delta.values.infinite):
        ranks = [delta.elements - math.ceil(d * delta.elements) + 1 for d in densities]
        fine = delta.histogram.refine(ranks)
        _refine(fine, reader, base, advance)
        cuts = dict(zip(densities, fine.values(), strict=True))
    norm, origin = math.sqrt(delta.values.squares), math.sqrt(delta.base_squares)
    return DeltaFacts(
        norm=norm,
        relative=norm / origin if 0 < origin < math.inf else None,
        changed=delta.changed,
        cuts=cuts,
    )


def _refine(fine: FineHistogram, reader: RangeReader, base: RangeReader, advance: Advance) -> None:
    for spec in reader.schema:
        if spec.kind == "parameter":
            for _, block in _deltas(spec, reader, base):
                fine.add(magnitudes(block))
        advance(spec.size_bytes)
