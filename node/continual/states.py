"""The state of a stream as an artifact: a few tensors for each tensor of the model.

Tensor number 7 of the base's parameters, in their order, has its state under `000007/sum`,
`000007/contributions` and so on. Beside the tensors stands what the method needs of the
whole stream: the sum of the norms of the task vectors.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.artifacts import ArtifactSink, open_model
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.dtypes import DTYPE_NAMES
from weft.checkpoints.parallel import Job, Workers, one_thread
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store
from weft.checkpoints.stored import StoredReader
from weft.checkpoints.task_vectors import shape_of
from weft.merging.method import Method
from weft.merging.precision import Precision
from weft.merging.streaming import Place, StreamState, kept_bytes
from weft.node.continual.arrival import Arrival

NORMS_KEY: Final = "sum_of_norms"
Step = tuple[Arrival, bool]
"""A contribution, and whether it comes in (or goes out)."""


class States:
    """Makes and reads the states of one stream.

    Args:
        store: where they lie.
        base: the model that is fine-tuned; stays open.
        method: what absorbs.
        precision: of sums.
        workers: who computes; a tensor is one job.
    """

    def __init__(
        self,
        store: Store,
        base: RangeReader,
        method: Method,
        precision: Precision,
        workers: Workers,
    ) -> None:
        self._store, self._base = store, base
        self._method, self._precision = method, precision
        self._workers = workers
        self._tensors = base.schema.parameters
        self._keys = {spec.name: f"{number:06}" for number, spec in enumerate(self._tensors)}

    def advance(self, before: str, steps: Sequence[Step], norms: float) -> str:
        """A new state from an old one; returns its digest, and the artifact is pinned by nobody.

        Args:
            before: digest of the old one; empty: nothing absorbed.
            steps: who comes in and who goes out, in this order.
            norms: of the new state, the sum of the norms of all that is in it.

        Raises:
            NotRemovable: who goes out never came in.
            NonFinite, OutOfBound, FoldFull: what the method refuses; names tensor and value.
            DiskFull: no room.
        """
        sink = ArtifactSink(
            self._store, self._schema(), kind="state", metadata={NORMS_KEY: norms.hex()}
        )
        with one_thread(), sink, _opened(self._store, before) as old:
            jobs = (Job(partial(self._moved, spec, old, steps), self._cost(spec)) for spec in self)
            with closing(self._workers.ordered(jobs)) as results:
                for spec in self:
                    self._write(sink, spec, next(results))  # nothing holds it afterwards
        return sink.digest

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self._tensors)

    def merged(self, digest: str) -> "MergedState":
        """What a state stands for, to be read tensor by tensor."""
        return MergedState(self, open_model(self._store, digest))

    def place(self, spec: TensorSpec) -> Place:
        """A tensor as the method sees it."""
        scope = self._method.scope(spec.name, spec.shape)
        return Place(spec.name, spec.shape, shape_of(spec, scope, spec.elements), self._precision)

    def restored(self, spec: TensorSpec, reader: StoredReader | None) -> StreamState:
        """The state of a tensor as it was stored; nothing absorbed where there is none."""
        place = self.place(spec)
        if reader is None:
            return StreamState.zero(self._method, place, self.base_block(spec))
        key = self._keys[spec.name]
        names = [name for name in reader.schema.names if name.startswith(f"{key}/")]
        tensors = {name.partition("/")[2]: reader.read(name) for name in names}
        return StreamState.restored(self._method, place, tensors)

    def base_block(self, spec: TensorSpec) -> Tensor:
        """The base's tensor as the method sees it."""
        return self._base.read(spec.name).to(self._precision.dtype).reshape(self.place(spec).shape)

    def _moved(
        self, spec: TensorSpec, old: StoredReader | None, steps: Sequence[Step]
    ) -> dict[str, Tensor]:
        state = self.restored(spec, old)
        if spec.elements:
            for arrival, comes in steps:
                change = state.add if comes else state.remove
                change(arrival.task_vector(spec), arrival.facts(spec))
        return state.to_tensors()

    def _write(self, sink: ArtifactSink, spec: TensorSpec, tensors: dict[str, Tensor]) -> None:
        for name, value in sorted(tensors.items()):
            sink.write(f"{self._keys[spec.name]}/{name}", value)

    def _schema(self) -> Schema:
        found = []
        for spec in self._tensors:
            with torch.device("meta"):
                empty = StreamState.zero(self._method, self.place(spec)).to_tensors()
            for name, value in empty.items():
                key = f"{self._keys[spec.name]}/{name}"
                found.append(TensorSpec(key, DTYPE_NAMES[value.dtype], tuple(value.shape)))
        return Schema(tuple(sorted(found, key=lambda spec: spec.name)))

    def _cost(self, spec: TensorSpec) -> int:
        kept = kept_bytes(self._method, spec.name, spec.shape, self._precision)
        return 3 * kept + 3 * 8 * spec.elements


class MergedState:
    """The merged task vectors of a state; close it, or use it in a context."""

    def __init__(self, states: States, reader: StoredReader) -> None:
        self._states, self._reader = states, reader

    def task_vector(self, spec: TensorSpec) -> Tensor:
        """Merged, float64, flat; not yet scaled."""
        if not spec.elements:
            return torch.zeros(0, dtype=torch.float64)
        state = self._states.restored(spec, self._reader)
        return state.merged(self._states.base_block(spec)).to(torch.float64).reshape(-1)

    def close(self) -> None:
        """Close the artifact."""
        self._reader.close()

    def __enter__(self) -> "MergedState":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _opened:  # noqa: N801 (a context manager that reads like a function)
    def __init__(self, store: Store, digest: str) -> None:
        self._reader = open_model(store, digest) if digest else None

    def __enter__(self) -> StoredReader | None:
        return self._reader

    def __exit__(self, *error: object) -> None:
        if self._reader is not None:
            self._reader.close()
