"""One merge under way: from contributions to pieces of the merged model.

    contributions -> before -> method (-> to the mean norm) -> after -> + base

Each step may ask for facts of what comes before it; they are found by passes over the
stream up to there (`survey.py`), before a single byte is written.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from weft.checkpoints.contribution import Contribution
from weft.checkpoints.found import Found
from weft.checkpoints.merge_spec import MergeSpec, Stage, Varied, step_at, usual
from weft.checkpoints.merged_streams import CalibratedStream, MergedStream
from weft.checkpoints.parallel import Workers
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import DTYPE_BYTES, TensorSpec
from weft.checkpoints.survey import Survey, by_name, looks_at_all
from weft.checkpoints.task_vectors import (
    CheckpointStream,
    Meter,
    Piece,
    Shaped,
    Span,
    Stream,
    TransformedStream,
    on,
    shape_of,
)
from weft.merging.blocks import Block, combined, in_proportion, merge_block
from weft.merging.errors import CannotMerge
from weft.merging.mean_norm import ToNorm, mean_norm
from weft.merging.method import (
    Calibration,
    Combination,
    Extent,
    Facts,
    Fold,
    Joint,
    Method,
    Need,
    Sequential,
    Transform,
)
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.table import name_of


class Merger:
    """Finds the facts, then merges any span of any tensor.

    Args:
        spec: what is done.
        base: what task vectors are taken from; None: from zero.
        contributions: none of weight zero.
        tensors: the parameters that count for facts of whole models.
        workers: who finds the facts.
        meter: counts bytes that are read.
    """

    def __init__(
        self,
        spec: MergeSpec,
        base: TensorReader | None,
        contributions: Sequence[Contribution],
        tensors: Sequence[TensorSpec],
        workers: Workers,
        meter: Meter,
    ) -> None:
        self._spec = spec
        self._contributions = contributions
        self._tensors = tensors
        self._workers = workers
        readers = {item.name: item.reader for item in contributions}
        self._checkpoints = partial(
            CheckpointStream,
            base,
            readers,
            spec.precision.dtype,
            meter,
            spec.device,
            called={item.name: item.where or item.name for item in contributions},
        )
        self._files = self._checkpoints(checked=not spec.passes_on)
        self._source: Stream = self._files
        self._merged: Stream = self._source
        self._found = Found()
        self._by_name = by_name([item.name for item in contributions])
        self._drawing = 0
        self._known: dict[str, tuple[Method, list[Facts]]] = {}

    @property
    def seekable(self) -> bool:
        """Whether spans may begin within a tensor."""
        return self._source.seekable

    def prepare(self) -> None:
        """Find all facts, in passes over the contributions (`MergeSpec.passes` counts them)."""
        stream = self._source
        for stage in self._spec.stages(stream.names):
            stream = self._transformed(stream, stage)
        self._source = stream
        methods = (self._spec.method,) * len(stream.names)
        self._found = self._survey(stream, methods).answer()
        merged: Stream = MergedStream(stream, self._merge_piece)
        if self._spec.keeps_mean_norm:
            merged = self._transformed(merged, (ToNorm(norm=mean_norm(self._norms())),))
        for step in self._spec.after:
            if isinstance(step, Calibration):
                merged = CalibratedStream(merged, stream, step, self._facts_of)
            else:
                merged = self._transformed(merged, (step,))
        self._merged = merged
        looked = [self._spec.method, *self._spec.before]
        if any(looks_at_all([usual(step)]) for step in looked):
            # All has been looked at once; another look would find the same.
            self._files.checked = False

    def pieces(self, spec: TensorSpec, span: Span) -> Iterator[Tensor]:
        """The merged model at a span of a tensor, flat, in the precision's dtype."""
        for piece in self._merged.pieces(spec, span):
            merged = piece.makers[0]()
            yield merged if piece.base is None else merged.add_(piece.base)

    def deltas(self, spec: TensorSpec, span: Span) -> Iterator[Tensor]:
        """The merged task vector at a span of a tensor, as `pieces` cuts the model."""
        for piece in self._merged.pieces(spec, span):
            yield piece.makers[0]()

    def blame(self, spec: TensorSpec, span: Span) -> None:
        """Look for what is not finite in the inputs of a span.

        Raises:
            NonFinite: names contribution, tensor and element.
        """
        for piece in self._checkpoints(checked=True).pieces(spec, span):
            for maker in piece.makers:
                maker()

    def cost(self, spec: TensorSpec, span: Span) -> int:
        """Bytes that working on a span takes, about."""
        method = self._spec.at(spec.name, self._weights).method
        resident = 6
        if isinstance(method, Joint) or any(
            isinstance(step, Calibration) for step in self._spec.after
        ):
            resident += 2 * len(self._contributions)
        elif isinstance(method, Sequential) and span.step == spec.elements:
            resident += 4  # a decomposition of what is there, and the newcomer in its terms
        step = min(span.step, span.stop - span.start)
        state = 0
        if isinstance(method, Fold):
            state = 2 * method.state_bytes(spec.name, spec.shape) * step // spec.elements
        # Of each contribution, and of the base, the bytes of the file are there at a time.
        stored = [item.reader.schema[spec.name].dtype for item in self._contributions]
        raw = sum(DTYPE_BYTES[dtype] for dtype in (*stored, spec.dtype)) * step
        return resident * 8 * step + raw + state + 2 * (span.stop - span.start)

    @property
    def _weights(self) -> list[float]:
        return [item.weight for item in self._contributions]

    def _survey(self, stream: Stream, steps: Sequence[Method | Varied | None]) -> Survey:
        def as_it_is_for(index: int, spec: TensorSpec) -> Method | None:
            if steps[index] is self._spec.method:
                return self._spec.at(spec.name, self._weights).method
            return step_at(steps[index], spec.name)

        return Survey(
            stream=stream,
            specs=self._tensors,
            methods=[usual(step) for step in steps],
            method_of=as_it_is_for,
            scope_of=self._spec.scope,
            workers=self._workers,
            piece=self._spec.piece_elements,
            key_of=partial(self._keys, stream.names),
        )

    def _norms(self) -> Iterator[float]:
        """Of the task vectors as they are weighted, which may be by tensor."""
        weights = {
            spec.name: self._spec.at(spec.name, self._weights).weights for spec in self._tensors
        }
        for index in range(len(self._contributions)):
            if any(each[index] != 0 for each in weights.values()):
                parts = self._found.squares.items()
                yield math.sqrt(math.fsum(weights[n][index] ** 2 * sq[index] for n, sq in parts))

    def _facts_of(self, name: str) -> list[Facts]:
        """What a calibration knows of the contributions: who they are, what they weigh."""
        weights = self._spec.at(name, self._weights).weights
        pairs = zip(self._contributions, weights, strict=True)
        return [Facts(contribution=item.name, weight=weight) for item, weight in pairs]

    def _keys(self, names: tuple[str, ...]) -> tuple[bytes, ...]:
        """For one step's draws: other ones than those of the steps before it."""
        missing = next((item.name for item in self._contributions if not item.key), None)
        if missing is not None:
            raise CannotMerge(
                f"{missing}: a step draws at random and was given no key to draw with"
            )
        keys = tuple(item.key for item in self._contributions)
        if names != tuple(item.name for item in self._contributions):
            keys = (_digest(*sorted(keys)),)
        self._drawing += 1
        # Two steps that drew alike would keep the same elements: once too few are dropped.
        again = b"%d" % self._drawing
        return keys if self._drawing == 1 else tuple(_digest(key, again) for key in keys)

    def _transformed(self, stream: Stream, stage: Sequence[Stage]) -> Stream:
        found = self._survey(stream, stage).answer()

        def step_of(index: int, spec: TensorSpec, offset: int) -> tuple[Transform, Facts] | None:
            transform = step_at(stage[index], spec.name)
            if not isinstance(transform, Transform):
                return None
            facts = Facts(contribution=stream.names[index], offset=offset)
            return transform, found.facts(index, facts, transform, spec.name)

        return TransformedStream(stream, step_of)

    def _merge_piece(self, spec: TensorSpec, piece: Piece) -> Tensor:
        method, facts = self._tailored(spec)
        if Need.KEY in method.needs:
            facts = [replace(fact, offset=piece.offset) for fact in facts]
        if all(fact.weight == 0 for fact in facts):
            # No coefficient, or no weight at this tensor: nothing is added to the base.
            if piece.base is None:
                raise CannotMerge(
                    f"tensor {spec.name!r}: all weights are zero, and there is no base to keep"
                )
            return torch.zeros(
                piece.elements, dtype=self._spec.precision.dtype, device=self._spec.device
            )
        makers = piece.makers
        if isinstance(method, Fold):
            # In the order of the names: plain floats must not tell who was named first.
            makers = tuple(makers[index] for index in self._by_name)
            facts = [facts[index] for index in self._by_name]
        shape = shape_of(spec, method.scope(spec.name, spec.shape), piece.elements)
        block = Block(
            name=spec.name,
            tensor_shape=spec.shape,
            shape=shape,
            base=None if piece.base is None else piece.base.reshape(shape),
            precision=self._spec.precision,
        )
        with on(torch.device(self._spec.device)):
            return merge_block(method, block, Shaped(makers, shape), facts).reshape(-1)

    def _tailored(self, spec: TensorSpec) -> tuple[Method, list[Facts]]:
        """The method for a tensor and what it is told, its offset left at zero."""
        if spec.name not in self._known:
            self._known[spec.name] = self._tailored_anew(spec)
        return self._known[spec.name]

    def _tailored_anew(self, spec: TensorSpec) -> tuple[Method, list[Facts]]:
        tailored = self._spec.at(spec.name, self._weights)
        facts = [
            self._found.facts(
                index, Facts(contribution=item.name, weight=weight), tailored.method, spec.name
            )
            for index, (item, weight) in enumerate(
                zip(self._contributions, tailored.weights, strict=True)
            )
        ]
        facts = in_proportion(tailored.method, facts)
        if not isinstance(tailored.method, Combination):
            return tailored.method, facts
        gram, where = self._found.gram, "all tensors"
        if tailored.method.span is Extent.TENSOR:
            gram, where = self._found.grams[spec.name], f"tensor {spec.name!r}"
        if gram is None:
            raise CannotMerge(f"{name_of(tailored.method)}: no inner products were taken")
        return TaskArithmetic(scale=1.0), combined(tailored.method, gram, facts, where)


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=32, person=b"weft.merge").digest()
