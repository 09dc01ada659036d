"""The merged task vector as a stream of its own, and what may change it afterwards."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor

from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.survey import by_name
from weft.checkpoints.task_vectors import Piece, Span, Stream, on, shape_of
from weft.merging.method import Calibration, Facts


class MergedStream(Stream):
    """The merged task vector as a stream of its own."""

    def __init__(self, inner: Stream, merge: Callable[[TensorSpec, Piece], Tensor]) -> None:
        self._inner = inner
        self._merge = merge

    @property
    def names(self) -> tuple[str, ...]:
        """One: the merge."""
        return ("the merged model",)

    @property
    def seekable(self) -> bool:
        """As the contributions."""
        return self._inner.seekable

    def pieces(self, spec: TensorSpec, span: Span) -> Iterator[Piece]:
        """The contributions' pieces, merged when they are asked for."""
        for piece in self._inner.pieces(spec, span):
            yield replace(piece, makers=(partial(self._merge, spec, piece),))


class CalibratedStream(Stream):
    """A merged task vector changed in view of the contributions."""

    def __init__(
        self,
        merged: Stream,
        contributions: Stream,
        calibration: Calibration,
        facts_of: Callable[[str], list[Facts]],
    ) -> None:
        self._merged = merged
        self._contributions = contributions
        self._calibration = calibration
        self._facts_of = facts_of
        self._order = by_name(contributions.names)

    @property
    def names(self) -> tuple[str, ...]:
        """As before."""
        return self._merged.names

    @property
    def seekable(self) -> bool:
        """As before."""
        return self._merged.seekable

    def pieces(self, spec: TensorSpec, span: Span) -> Iterator[Piece]:
        """The same pieces, changed when they are asked for."""
        pairs = zip(
            self._merged.pieces(spec, span), self._contributions.pieces(spec, span), strict=True
        )
        for merged, contributions in pairs:
            yield replace(merged, makers=(partial(self._changed, spec, merged, contributions),))

    def _changed(self, spec: TensorSpec, merged: Piece, contributions: Piece) -> Tensor:
        scope = self._calibration.scope(spec.name, spec.shape)
        shape = shape_of(spec, scope, merged.elements)
        blocks = [contributions.makers[index]().reshape(shape) for index in self._order]
        known = self._facts_of(spec.name)
        facts = [known[index] for index in self._order]
        delta = merged.makers[0]().reshape(shape)
        with on(delta.device):
            changed = self._calibration.calibrate(spec.name, delta, blocks, facts)
        return changed.reshape(-1)
