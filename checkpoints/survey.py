"""What methods must know before they merge: sums, norms, ranks, inner products.

Passes over a stream of task vectors, in bounded memory. Parts are counted by several
threads and added in the order of the file, so the facts depend on the inputs alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import torch
from torch import Tensor

from weft.checkpoints.found import Cuts, Found
from weft.checkpoints.parallel import Job, Workers
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.task_vectors import Piece, Span, Stream, spans
from weft.merging.errors import CannotMerge
from weft.merging.layer_scores import rank_contrast
from weft.merging.layers import layers
from weft.merging.magnitudes import magnitudes
from weft.merging.matrices import is_linear
from weft.merging.method import (
    Combination,
    Cut,
    Extent,
    Layer,
    Method,
    Need,
    Scope,
    TensorSums,
)
from weft.merging.methods.larv import Larv
from weft.merging.statistics.magnitude_histogram import (
    BINS,
    FineHistogram,
    MagnitudeHistogram,
    order_statistics,
)

Histogram = TypeVar("Histogram", MagnitudeHistogram, FineHistogram)

SPAN_ELEMENTS: Final = 2**21
"""Elements of a tensor that one job counts: a histogram is half a megabyte."""

SORTED_ELEMENTS: Final = 2**17
"""Up to so many elements sorting is cheaper than two histograms."""


@dataclass(slots=True)
class _Part:
    """What one pass summed over a part of a model; one entry a contribution."""

    elements: int
    squares: Tensor
    absolutes: Tensor
    gram: Tensor | None

    def add(self, other: "_Part") -> None:
        self.elements += other.elements
        self.squares += other.squares
        self.absolutes += other.absolutes
        if self.gram is not None and other.gram is not None:
            self.gram += other.gram

    def sums(self) -> tuple[TensorSums, ...]:
        return tuple(
            TensorSums(elements=self.elements, absolute=absolute, squares=square)
            for absolute, square in zip(self.absolutes.tolist(), self.squares.tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A question about a stream.

    Attributes:
        stream: the task vectors.
        specs: of the tensors that count: the parameters.
        methods: who asks, one a contribution; None asks nothing.
        method_of: the same for a contribution and a tensor: cuts of extent tensor, and
            factors by layer, may differ from tensor to tensor.
        scope_of: how much of a tensor the stream's transforms must see at a time.
        workers: who counts.
        piece: elements worked on at a time.
        key_of: content keys, asked for where the method draws.
    """

    stream: Stream
    specs: Sequence[TensorSpec]
    methods: Sequence[Method | None]
    method_of: Callable[[int, TensorSpec], Method | None]
    scope_of: Callable[[TensorSpec], Scope]
    workers: Workers
    piece: int
    key_of: Callable[[], tuple[bytes, ...]]

    def answer(self) -> Found:
        """Read the stream as often as need be.

        Raises:
            NonFinite: a NaN or an infinity.
        """
        needs = self._needs
        whole, parts, histograms = self._nothing(), dict[str, _Part](), self._histograms()
        if _counts(self.methods):
            parts = self._count(whole, histograms)
        spans_model = self._combination is not None and self._combination.span is Extent.MODEL
        normed = parts if Need.NORM in needs else {}
        return Found(
            norms=tuple(whole.squares.sqrt().tolist()) if Need.NORM in needs else (),
            squares={n: tuple(p.squares.tolist()) for n, p in normed.items()},
            sums={n: p.sums() for n, p in parts.items()} if Need.SUMS in needs else {},
            gram=whole.gram if spans_model else None,
            grams={n: p.gram for n, p in parts.items() if p.gram is not None},
            model_cuts=self._model_cuts(histograms, whole.elements),
            tensor_cuts=self._tensor_cuts(),
            layers=layers([spec.name for spec in self.specs]) if Need.LAYER in needs else {},
            keys=self.key_of() if Need.KEY in needs else (),
            scales=self._scales() if Need.SCALE in needs else {},
        )

    @property
    def _needs(self) -> frozenset[Need]:
        return _needs(self.methods)

    @property
    def _combination(self) -> Combination | None:
        first = self.methods[0]
        return first if isinstance(first, Combination) else None

    def _ranks(self, extent: Extent) -> bool:
        return _asks_ranks(self.methods, extent)

    def _spans(self, spec: TensorSpec) -> list[Span]:
        scope = self.scope_of(spec)
        return list(spans(spec, scope, self._length, self.stream.seekable, self.piece))

    @property
    def _length(self) -> int:
        return max(SPAN_ELEMENTS, self.piece)

    def _cost(self, span: Span) -> int:
        n = len(self.stream.names)
        copies = 4 + n * (3 if self._combination is not None else 1)
        step = min(span.step, span.stop - span.start)
        return copies * step * 8 + (n * BINS * 8 if self._ranks(Extent.MODEL) else 0)

    def _count(self, whole: _Part, histograms: Sequence[MagnitudeHistogram]) -> dict[str, _Part]:
        """One pass: sums and histograms of the model, and the sums of every tensor."""
        cut = {spec.name: self._spans(spec) for spec in self.specs}
        jobs = (
            Job(partial(self._count_span, spec, span), self._cost(span))
            for spec in self.specs
            for span in cut[spec.name]
        )
        parts = {}
        with closing(self.workers.ordered(jobs)) as results:
            for spec in self.specs:
                part = self._nothing()
                for found, counted in islice(results, len(cut[spec.name])):
                    part.add(found)
                    _combine(histograms, counted)
                whole.add(part)
                parts[spec.name] = part
        return parts

    def _nothing(self) -> _Part:
        n = len(self.stream.names)
        combines = self._combination is not None
        return _Part(
            elements=0,
            squares=torch.zeros(n, dtype=torch.float64),
            absolutes=torch.zeros(n, dtype=torch.float64),
            gram=torch.zeros((n, n), dtype=torch.float64) if combines else None,
        )

    def _histograms(self) -> list[MagnitudeHistogram]:
        n = len(self.stream.names) if self._ranks(Extent.MODEL) else 0
        return [MagnitudeHistogram() for _ in range(n)]

    def _count_span(self, spec: TensorSpec, span: Span) -> tuple[_Part, list[MagnitudeHistogram]]:
        # One that cannot seek has one span a tensor: sums must round as those of several do.
        total, part, begun = self._nothing(), self._nothing(), span.start
        histograms = self._histograms()
        for piece in self.stream.pieces(spec, span):
            if piece.offset - begun >= self._length:
                total.add(part)
                part, begun = self._nothing(), piece.offset
            part.elements += piece.elements
            if part.gram is not None:
                part.gram += self._gram(piece)
            else:
                self._count_piece(piece, part, histograms)
        total.add(part)
        return total, histograms

    def _gram(self, piece: Piece) -> Tensor:
        """Inner products over a piece; free of the order in which contributions are given.

        A product of matrices may round otherwise when rows change places.
        """
        order = by_name(self.stream.names)
        rows = torch.stack([piece.makers[index]().double() for index in order])
        products = (rows @ rows.T).cpu()
        places = torch.tensor(order).argsort()
        return ((products + products.T) / 2)[places][:, places]

    def _count_piece(
        self, piece: Piece, part: _Part, histograms: Sequence[MagnitudeHistogram]
    ) -> None:
        sums = Need.SUMS in self._needs
        for index, maker in enumerate(piece.makers):
            delta = maker()
            part.squares[index] += torch.dot(delta, delta).item()
            if sums:
                part.absolutes[index] += delta.abs().sum(dtype=torch.float64).item()
            if histograms:
                histograms[index].add(magnitudes(delta))

    def _model_cuts(
        self, histograms: Sequence[MagnitudeHistogram], elements: int
    ) -> tuple[Cuts, ...]:
        """A second pass for the ranks over the whole model."""
        if not self._ranks(Extent.MODEL):
            return ()
        fine = [
            histogram.refine(_ranks(method, Extent.MODEL, elements))
            for histogram, method in zip(histograms, self.methods, strict=True)
        ]
        jobs = (
            Job(partial(self._refine_span, spec, span, fine), self._cost(span))
            for spec in self.specs
            for span in self._spans(spec)
        )
        with closing(self.workers.ordered(jobs)) as results:
            for counted in results:
                _combine(fine, counted)
        return tuple(tuple(histogram.values()) for histogram in fine)

    def _refine_span(
        self, spec: TensorSpec, span: Span, questions: Sequence[FineHistogram]
    ) -> list[FineHistogram]:
        counted = [question.empty_copy() for question in questions]
        self._fill(spec, [span], counted)
        return counted

    def _tensor_cuts(self) -> dict[str, tuple[Cuts, ...]]:
        """Ranks within each tensor: one job a tensor."""
        if not self._ranks(Extent.TENSOR):
            return {}
        jobs = (Job(partial(self._rank_tensor, spec), self._rank_cost(spec)) for spec in self.specs)
        names = (spec.name for spec in self.specs)
        with closing(self.workers.ordered(jobs)) as results:
            return dict(zip(names, results, strict=True))

    def _rank_cost(self, spec: TensorSpec) -> int:
        """Two sets of histograms, or the magnitudes themselves, and a span under way."""
        n = len(self.stream.names)
        held = 4 * n * spec.elements if spec.elements <= SORTED_ELEMENTS else 16 * n * BINS
        return held + max((self._cost(span) for span in self._spans(spec)), default=0)

    def _rank_tensor(self, spec: TensorSpec) -> tuple[Cuts, ...]:
        count = len(self.stream.names)
        methods = [self.method_of(index, spec) for index in range(count)]
        ranks = [_ranks(method, Extent.TENSOR, spec.elements) for method in methods]
        if spec.elements <= SORTED_ELEMENTS:
            pairs = zip(self._magnitudes(spec), ranks, strict=True)
            return tuple(tuple(order_statistics(found, asked)) for found, asked in pairs)
        coarse = [MagnitudeHistogram() for _ in self.stream.names]
        self._fill(spec, self._spans(spec), coarse)
        fine = [each.refine(asked) for each, asked in zip(coarse, ranks, strict=True)]
        self._fill(spec, self._spans(spec), fine)
        return tuple(tuple(histogram.values()) for histogram in fine)

    def _fill(
        self,
        spec: TensorSpec,
        cut: Sequence[Span],
        histograms: Sequence[MagnitudeHistogram | FineHistogram],
    ) -> None:
        for span in cut:
            for piece in self.stream.pieces(spec, span):
                for maker, histogram in zip(piece.makers, histograms, strict=True):
                    histogram.add(magnitudes(maker()))

    def _magnitudes(self, spec: TensorSpec) -> Iterator[Tensor]:
        """Of a small tensor, whole, one contribution after the other."""
        found: list[list[Tensor]] = [[] for _ in self.stream.names]
        for span in self._spans(spec):
            for piece in self.stream.pieces(spec, span):
                for maker, parts in zip(piece.makers, found, strict=True):
                    parts.append(magnitudes(maker()))
        return (torch.cat(parts) if parts else torch.empty(0) for parts in found)

    def _scales(self) -> dict[str, tuple[float, ...]]:
        """Factors by layer: one pass over whole linear weights."""
        found: list[dict[str, float]] = [{} for _ in self.stream.names]
        linear = [s for s in self.specs if s.elements and is_linear(s.name, s.shape)]
        jobs = (Job(partial(self._contrasts, spec), 8 * 8 * spec.elements) for spec in linear)
        with closing(self.workers.ordered(jobs)) as results:
            for spec, contrasts in zip(linear, results, strict=True):
                for each, contrast in zip(found, contrasts, strict=True):
                    each[spec.name] = contrast
        depth = layers([spec.name for spec in self.specs])
        scales = [self._dealt(index, contrasts, depth) for index, contrasts in enumerate(found)]
        names = [spec.name for spec in self.specs]
        return {name: tuple(scale.get(name, 1.0) for scale in scales) for name in names}

    def _dealt(
        self, index: int, contrasts: Mapping[str, float], depth: Mapping[str, Layer]
    ) -> dict[str, float]:
        """The factors of one contribution: a tensor's is that of the method as it is for it."""
        dealt: dict[Larv, dict[str, float]] = {}
        found = {}
        for spec in self.specs:
            method = self.method_of(index, spec)
            if isinstance(method, Larv):
                if method not in dealt:
                    dealt[method] = method.scales(contrasts, depth)
                found[spec.name] = dealt[method][spec.name]
        return found

    def _contrasts(self, spec: TensorSpec) -> list[float]:
        (piece,) = self.stream.pieces(spec, Span(0, spec.elements, spec.elements))
        if piece.base is None:
            raise CannotMerge("Larv: compares task vectors with their base, and there is none")
        base = piece.base.reshape(spec.shape)
        return [rank_contrast(base, maker().reshape(spec.shape)) for maker in piece.makers]


def _combine(mine: Sequence[Histogram], theirs: Sequence[Histogram]) -> None:
    for own, other in zip(mine, theirs, strict=True):
        own.combine(other)


def by_name(names: Sequence[str]) -> list[int]:
    """The places of names, in the order in which the names sort."""
    return sorted(range(len(names)), key=names.__getitem__)


def passes(methods: Sequence[Method | None]) -> int:
    """How often a stream is read to find what these methods ask of it."""
    ranks = 2 * _asks_ranks(methods, Extent.TENSOR) + _asks_ranks(methods, Extent.MODEL)
    return ranks + _counts(methods) + (Need.SCALE in _needs(methods))


def looks_at_all(methods: Sequence[Method | None]) -> bool:
    """Whether finding that reads every element of every tensor."""
    return _counts(methods) or _asks_ranks(methods, Extent.TENSOR)


def _needs(methods: Sequence[Method | None]) -> frozenset[Need]:
    found = [method.needs for method in methods if method is not None]
    return frozenset[Need]().union(*found)


def _counts(methods: Sequence[Method | None]) -> bool:
    """Whether a pass for sums is needed at all."""
    asked = {Need.NORM, Need.SUMS} & _needs(methods)
    combines = any(isinstance(method, Combination) for method in methods)
    return bool(asked) or combines or _asks_ranks(methods, Extent.MODEL)


def _asks_ranks(methods: Sequence[Method | None], extent: Extent) -> bool:
    return any(_cuts(method, extent) for method in methods)


def _cuts(method: Method | None, extent: Extent) -> list[Cut]:
    cuts = () if method is None else method.cuts
    return [cut for cut in cuts if cut.extent is extent]


def _ranks(method: Method | None, extent: Extent, elements: int) -> list[int]:
    return [cut.rank(elements) for cut in _cuts(method, extent)]
