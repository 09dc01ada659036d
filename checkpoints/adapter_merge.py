"""The parts of an adapter, made of a merge tensor by tensor; see `adapter_job.py`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.contribution import Contribution, require_alike, require_names
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import NotEnoughMemory
from weft.checkpoints.factor_merge import FactorMerge, adapters_among
from weft.checkpoints.job import MergeJob
from weft.checkpoints.merger import Merger
from weft.checkpoints.parallel import Job, Workers, one_thread
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.task_vectors import Meter, Span, require_finite, spans
from weft.merging.errors import CannotMerge
from weft.merging.factors import LowRank, concatenated, from_dense, norm, truncated
from weft.merging.matrices import is_linear

SHOWN: Final = 10
DENSE_COPIES: Final = 6
"""A matrix, what its decomposition takes, and what was cut off, in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What became of one tensor.

    Attributes:
        factors: B and A, in the shapes and the dtype of the file; None: nothing to add.
        whole: it has changed, and has no factors.
        norm: of its merged task vector.
        lost: norm of what the factors leave out.
    """

    factors: tuple[Tensor, Tensor] | None = None
    whole: bool = False
    norm: float = 0.0
    lost: float = 0.0


class AdapterMerge:
    """Makes the parts of an adapter, tensor by tensor.

    Args:
        job: what is merged.
        base: what the adapter will belong to.
        contributions: those of a weight other than zero.
        rank: the highest of any module.
        meter: counts what is read.
    """

    def __init__(
        self,
        job: MergeJob,
        base: RangeReader,
        contributions: Sequence[Contribution],
        rank: int,
        meter: Meter,
    ) -> None:
        require_names(contributions)
        self._job, self._base, self._rank, self._meter = job, base, rank, meter
        self._parameters = base.schema.parameters
        require_alike(self._parameters, base, contributions)
        self._workers = Workers(job.threads, job.memory_bytes, job.spec.device)
        self._merger = Merger(job.spec, base, contributions, self._parameters, self._workers, meter)
        self._factored = FactorMerge.of(job.spec, contributions)
        self._adapters = list(adapters_among(contributions).values())
        self._only_adapters = len(self._adapters) == len(contributions)
        self._changed = {name for reader in self._adapters for name in reader.changed}
        self._replaced = {name for reader in self._adapters for name in reader.replaced}
        self.dtype = TORCH_DTYPES[job.dtype or "F32"]
        self.parts: dict[str, _Part] = {}

    def run(self) -> None:
        """Find `parts`: of every parameter that may have changed."""
        # Where nobody changes a tensor, neither does the merge.
        tensors = [
            spec
            for spec in self._parameters
            if spec.elements and (spec.name in self._changed or not self._only_adapters)
        ]
        with one_thread():
            if not all(self._by_factors(spec) for spec in tensors):
                self._merger.prepare()
            jobs = (self._work(spec) for spec in tensors)
            with closing(self._workers.ordered(jobs)) as results:
                for spec, part in zip(tensors, results, strict=True):
                    self.parts[spec.name] = part

    @property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """B and A by module."""
        found = self.parts.items()
        return {_module(name): part.factors for name, part in found if part.factors is not None}

    @property
    def rank(self) -> int:
        """The largest of all modules; zero where there is none."""
        return max((b.shape[1] for b, _ in self.factors.values()), default=0)

    @property
    def truncation_error(self) -> float:
        """What the factors leave out, as a share of the merged task vector's norm."""
        total = math.hypot(*(part.norm for part in self.parts.values()))
        lost = math.hypot(*(part.lost for part in self.parts.values()))
        return lost / total if total > 0 else 0.0

    @property
    def embeddings(self) -> frozenset[str]:
        """Modules whose factors are those of embeddings."""
        found = frozenset[str]().union(*(reader.embeddings for reader in self._adapters))
        return frozenset(_module(name) for name in found)

    @property
    def transposed(self) -> bool:
        """Whether the base's matrices are (in, out), as far as adapters tell."""
        return any(reader.config.transposed for reader in self._adapters)

    def whole(self) -> "MergedWhole | None":
        """The modules that are saved whole.

        Raises:
            CannotMerge: they cannot be; names them.
        """
        names = [name for name, part in self.parts.items() if part.whole]
        factors = self.factors
        refused = [name for name in names if "." not in name or _module(name) in factors]
        if refused:
            more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
            raise CannotMerge(
                f"an adapter cannot hold what the merge changes in {', '.join(refused[:SHOWN])}"
                f"{more}: no linear weights, and their modules have factors, or there is no"
                " module; merge into a model instead (leave out --adapter-out)"
            )
        modules = {_module(name) for name in names}
        kept = tuple(spec for spec in self._parameters if _module(spec.name) in modules)
        return MergedWhole(self._merger, Schema(kept), self._spans) if kept else None

    def _by_factors(self, spec: TensorSpec) -> bool:
        return self._factored is not None and self._factored.covers(spec.name)

    def _holds(self, spec: TensorSpec) -> bool:
        """Whether a tensor's task vector goes into factors."""
        if not spec.name.endswith(".weight") or spec.name in self._replaced:
            return False
        return is_linear(spec.name, spec.shape) or spec.name in self._changed

    def _work(self, spec: TensorSpec) -> Job[_Part]:
        if self._by_factors(spec):
            return Job(partial(self._from_factors, spec))
        (span,) = self._spans(spec)
        cost = self._merger.cost(spec, span)
        if not self._holds(spec):
            return Job(partial(self._compared, spec, span), cost)
        cost += DENSE_COPIES * 8 * spec.elements
        if cost > self._workers.budget:
            raise NotEnoughMemory(
                f"tensor {spec.name!r}: to find its factors, {spec.describe()} must be seen whole,"
                f" which takes about {cost / 2**20:.0f} MiB; {self._workers.budget / 2**20:.0f} MiB"
                " are allowed: allow more memory",
                cost,
            )
        return Job(partial(self._from_dense, spec, span), cost)

    def _spans(self, spec: TensorSpec) -> list[Span]:
        merge = self._job.spec
        piece = merge.piece_elements
        return list(spans(spec, merge.scope(spec), spec.elements, self._merger.seekable, piece))

    def _from_factors(self, spec: TensorSpec) -> _Part:
        if self._factored is None:
            return _Part()
        exact = self._factored.merged(spec)
        self._meter.add(self._factored.bytes_of(spec.name))
        cut = truncated(exact, self._rank)
        lost = norm(concatenated([exact, cut], [1.0, -1.0]))
        return self._part(spec, cut, norm(exact), lost)

    def _from_dense(self, spec: TensorSpec, span: Span) -> _Part:
        matrix = torch.empty(spec.elements, dtype=torch.float64)
        filled = 0
        for block in self._merger.deltas(spec, span):
            matrix[filled : filled + block.numel()] = block
            filled += block.numel()
        self._require_finite(matrix, spec, span)
        matrix = matrix.reshape(spec.shape[0], -1)
        cut = from_dense(matrix, self._rank)
        whole = float(matrix.norm())
        lost = float(matrix.sub_(cut.dense()).norm())
        return self._part(spec, cut, whole, lost)

    def _part(self, spec: TensorSpec, cut: LowRank, whole: float, lost: float) -> _Part:
        if cut.rank == 0:
            return _Part(norm=whole, lost=lost)
        b, a = cut.B.to(self.dtype), cut.A.to(self.dtype)
        if len(spec.shape) > 2:
            ones = (1,) * (len(spec.shape) - 2)
            b, a = b.reshape(*b.shape, *ones), a.reshape(cut.rank, *spec.shape[1:])
        return _Part(factors=(b.contiguous(), a.contiguous()), norm=whole, lost=lost)

    def _compared(self, spec: TensorSpec, span: Span) -> _Part:
        """Whether the merge changes a tensor that has no factors, once it is rounded."""
        if spec.name in self._replaced:
            return _Part(whole=True)
        dtype = TORCH_DTYPES[spec.dtype]
        before = self._base.ranges(spec.name, span.start, span.stop, span.step)
        for merged, origin in zip(self._merger.pieces(spec, span), before, strict=True):
            self._require_finite(merged, spec, span)
            if not torch.equal(merged.to("cpu", dtype), origin):
                return _Part(whole=True)
        return _Part()

    def _require_finite(self, merged: Tensor, spec: TensorSpec, span: Span) -> None:
        if not bool(merged.isfinite().all()):
            self._merger.blame(spec, span)
            require_finite(merged, "the merged model", spec, span.start)


class MergedWhole:
    """Some tensors of a merged model, made as they are read."""

    def __init__(
        self, merger: Merger, schema: Schema, cut: Callable[[TensorSpec], list[Span]]
    ) -> None:
        self._merger = merger
        self._schema = schema
        self._cut = cut

    @property
    def schema(self) -> Schema:
        """The tensors."""
        return self._schema

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks, rounded to its dtype.

        Raises:
            NonFinite: the result is beyond that dtype.
        """
        spec = self._schema[name]
        for span in self._cut(spec):
            offset = span.start
            for piece in self._merger.pieces(spec, span):
                block = piece.to("cpu", TORCH_DTYPES[spec.dtype])
                require_finite(block, "the merged model", spec, offset)
                offset += block.numel()
                yield block


def _module(name: str) -> str:
    return name.rpartition(".")[0]
