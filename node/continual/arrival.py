"""One contribution on its way into a stream: its task vector, and what methods may know."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.parallel import Workers
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.survey import Survey
from weft.checkpoints.task_vectors import (
    PIECE_ELEMENTS,
    CheckpointStream,
    Meter,
    Span,
    shape_of,
    spans,
)
from weft.merging.method import Facts, Method, Scope
from weft.merging.precision import Precision


class Arrival:
    """A contribution that is about to be absorbed, or taken out.

    Reads it as often as the method's needs say; all of it is checked for NaN and infinities.

    Args:
        name: for messages, and its place in orders by name.
        reader: the fine-tuned model.
        base: what the task vector is taken from.
        weight: in the merge.
        key: of its content, for methods that draw.
        method: who will be told.
        precision: in which the task vector is taken.
        workers: who finds the facts.

    Raises:
        NonFinite: a NaN or an infinity; names tensor and element.
    """

    def __init__(
        self,
        *,
        name: str,
        reader: TensorReader,
        base: RangeReader,
        weight: float,
        key: bytes,
        method: Method,
        precision: Precision,
        workers: Workers,
    ) -> None:
        self._method = method
        self._facts = Facts(contribution=name, weight=weight)
        self._dtype = precision.dtype
        self._stream = CheckpointStream(base, {name: reader}, precision.dtype, Meter())
        self._found = Survey(
            stream=self._stream,
            specs=base.schema.parameters,
            methods=[method],
            method_of=lambda index, spec: method,
            scope_of=self.scope,
            workers=workers,
            piece=PIECE_ELEMENTS,
            key_of=lambda: (key,),
        ).answer()

    def scope(self, spec: TensorSpec) -> Scope:
        """How much of a tensor the method sees at a time."""
        return self._method.scope(spec.name, spec.shape)

    def facts(self, spec: TensorSpec) -> Facts:
        """What the method may know, for a tensor."""
        return self._found.facts(0, self._facts, self._method, spec.name)

    def task_vector(self, spec: TensorSpec) -> Tensor:
        """Of a whole tensor, in the shape in which the method sees it."""
        whole = torch.empty(spec.elements, dtype=self._dtype)
        for piece in self._stream.pieces(spec, Span(0, spec.elements, PIECE_ELEMENTS)):
            whole[piece.offset : piece.offset + piece.elements] = piece.makers[0]()
        return whole.reshape(shape_of(spec, self.scope(spec), spec.elements))


def norm_and_overlap(
    reader: TensorReader,
    base: RangeReader,
    head: RangeReader | None,
    specs: Sequence[TensorSpec],
    name: str,
) -> tuple[float, float | None]:
    """The norm of a task vector over all parameters, and its cosine to the merged one.

    Raises:
        NonFinite: a NaN or an infinity; names tensor and element.
    """
    readers = {name: reader} if head is None else {name: reader, "the head": head}
    stream = CheckpointStream(base, readers, torch.float64, Meter())
    products = torch.zeros(2, 2, dtype=torch.float64)
    for spec in specs:
        for span in spans(spec, Scope.ELEMENT, spec.elements, stream.seekable):
            for piece in stream.pieces(spec, span):
                rows = torch.stack([maker() for maker in piece.makers])
                products[: len(rows), : len(rows)] += rows @ rows.T
    norm, merged = math.sqrt(products[0, 0]), math.sqrt(products[1, 1])
    if head is None or norm == 0 or merged == 0:
        return norm, None
    return norm, float(products[0, 1]) / (norm * merged)
