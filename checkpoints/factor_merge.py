"""Adapters of one base merged without leaving their factors.

The mean and the sum of adapters are exact by concatenation; KnOTS, LoRA-SVD and LoRA-LEGO
work on factors by nature. So no dense task vector is made, nor decomposed, where all
contributions are adapters: memory and time go with the ranks, not with the matrices.
Everything is taken in float64, contributions in the order of their names.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

import torch
from torch import Tensor

from weft.checkpoints.adapters import KEPT_FACTORS, AdapterReader
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.contribution import Contribution
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.low_rank import Factors, product
from weft.checkpoints.merge_spec import MergeSpec
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec
from weft.merging.blocks import in_proportion
from weft.merging.errors import CannotMerge
from weft.merging.factored import (
    FactoredJoint,
    mean_of_factors,
    require_factors,
    sum_of_factors,
)
from weft.merging.factors import LowRank
from weft.merging.method import Facts, Method, Scope
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.precision import Precision

__all__ = ["FactorMerge", "FactoredReader", "adapters_among", "without_dense"]


class FactorMerge:
    """The merged task vector of a tensor as factors.

    Args:
        spec: of a method with a way through factors, and nothing before or after it.
        contributions: adapters of one base; those of weight zero are left out.
    """

    def __init__(self, spec: MergeSpec, contributions: Sequence[Contribution]) -> None:
        self._spec = spec
        self._weights = [item.weight for item in contributions if item.weight != 0]
        self._adapters = adapters_among(contributions)
        found = self._adapters.values()
        self._replaced = frozenset[str]().union(*(reader.replaced for reader in found))
        self.changed = frozenset[str]().union(*(reader.changed for reader in found))

    @classmethod
    def of(cls, spec: MergeSpec, contributions: Sequence[Contribution]) -> "FactorMerge | None":
        """The merge by way of factors, where there is one."""
        alone = not (spec.before or spec.own or spec.after)
        present = [item for item in contributions if item.weight != 0]
        adapters = bool(present) and len(adapters_among(present)) == len(present)
        factored = isinstance(spec.method, FactoredJoint | Mean | TaskArithmetic)
        return cls(spec, contributions) if alone and adapters and factored else None

    def covers(self, name: str) -> bool:
        """Whether a tensor's task vectors are all products of factors, or nothing."""
        return name not in self._replaced

    def bytes_of(self, name: str) -> int:
        """Bytes of all factors that change a tensor."""
        return sum(reader.factor_bytes(name) for reader in self._adapters.values())

    def merged(self, spec: TensorSpec) -> LowRank:
        """The merged task vector of a tensor, (shape[0], the other dimensions multiplied).

        Raises:
            CannotMerge: the weights do not make a merge.
            NonFinite: names contribution and tensor.
        """
        tailored = self._spec.at(spec.name, self._weights)
        pairs = zip(self._adapters, tailored.weights, strict=True)
        facts = [Facts(contribution=name, weight=weight) for name, weight in pairs if weight]
        if not facts:
            raise CannotMerge(f"tensor {spec.name!r}: no contribution has a weight other than zero")
        facts = sorted(in_proportion(tailored.method, facts), key=lambda fact: fact.contribution)
        factors = [_factors(self._adapters[fact.contribution], spec) for fact in facts]
        return _merged(tailored.method, spec, factors, facts)


class FactoredReader(DeltaReader):
    """A base with a merge of adapters: the merged model, made as it is read.

    Args:
        merge: covers every tensor that it changes.
        base: what the adapters were trained on; stays open while this is read.
    """

    def __init__(self, merge: FactorMerge, base: RangeReader) -> None:
        self._merge = merge
        self._base = base
        self._kept: OrderedDict[str, Factors] = OrderedDict()
        self._lock = Lock()

    @property
    def schema(self) -> Schema:
        """The base's tensors."""
        return self._base.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """The base's."""
        return self._base.metadata

    @property
    def where(self) -> str:
        """What is read."""
        return f"adapters on {self._base.where}"

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with the merged model's bytes, from an offset that begins an element."""
        self._base.fill(spec, into, offset)
        if not len(into) or spec.name not in self._merge.changed:
            return
        values = torch.frombuffer(into, dtype=TORCH_DTYPES[spec.dtype])
        start = offset // DTYPE_BYTES[spec.dtype]
        exact = product(self._factors(spec), start, start + values.numel())
        values.copy_(exact.add_(values.to(torch.float64)))

    def delta_ranges(
        self, name: str, start: int, stop: int, step: int, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """The merged task vector, flat, in blocks of `step` elements; see `DeltaReader`."""
        spec = self.schema[name]
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if name in self._merge.changed:
                yield product(self._factors(spec), first, last).to(dtype)
            else:
                yield torch.zeros(last - first, dtype=dtype)

    def _factors(self, spec: TensorSpec) -> Factors:
        """Merged once for a run of blocks, by one thread; a few are kept."""
        with self._lock:
            if spec.name not in self._kept:
                found = self._merge.merged(spec)
                left, right = found.B.contiguous(), found.A.contiguous()
                self._kept[spec.name] = Factors(left, right, 1.0)
                while len(self._kept) > KEPT_FACTORS:
                    self._kept.popitem(last=False)
            return self._kept[spec.name]

    def close(self) -> None:
        """Nothing of its own to close."""


def adapters_among(contributions: Sequence[Contribution]) -> dict[str, AdapterReader]:
    """Those that are adapters on the merge's own base, without those of weight zero."""
    return {
        item.name: item.reader
        for item in contributions
        if item.weight != 0 and isinstance(item.reader, AdapterReader)
    }


def without_dense(
    spec: MergeSpec, base: RangeReader | None, contributions: Sequence[Contribution]
) -> tuple[MergeSpec, Sequence[Contribution]]:
    """The same merge by way of factors, where its method takes whole matrices apart otherwise.

    So KnOTS, LoRA-SVD and LoRA-LEGO merge adapters into a model without a dense task
    vector of any of them. Folds such as the mean keep their stream: it is as small, and
    its sums are exact. So do adapters that hold tensors whole.

    Returns:
        What was given; or one contribution that is the merged model.
    """
    merge = FactorMerge.of(spec, contributions)
    if merge is None or base is None or not isinstance(spec.method, FactoredJoint):
        return spec, contributions
    if not all(merge.covers(name) for name in merge.changed):
        return spec, contributions
    reader = FactoredReader(merge, base)
    single = spec.precision is Precision.FLOAT32
    precision = Precision.FLOAT32 if single else Precision.FLOAT64
    merged = Contribution(name="the merged adapters", reader=reader, weight=1.0)
    return MergeSpec(method=Mean(), precision=precision), [merged]


def _factors(reader: AdapterReader, spec: TensorSpec) -> LowRank:
    found = reader.factors(spec.name)
    rows, columns = spec.shape[0], math.prod(spec.shape[1:])
    if found is None:
        nothing = torch.zeros((rows, 0), dtype=torch.float64)
        return LowRank(nothing, torch.zeros((0, columns), dtype=torch.float64))
    left, right, scale = found
    return LowRank(left.to(torch.float64) * scale, right.to(torch.float64))


def _merged(
    method: Method, spec: TensorSpec, factors: Sequence[LowRank], facts: Sequence[Facts]
) -> LowRank:
    if isinstance(method, TaskArithmetic):
        return sum_of_factors(spec.name, factors, facts, method.scale)
    linear = method.scope(spec.name, spec.shape) is Scope.MATRIX
    if not isinstance(method, FactoredJoint) or not linear:
        return mean_of_factors(spec.name, factors, facts)
    if len(factors) == 1 and method.gives_back_one:
        require_factors(spec.name, factors, facts)
        return factors[0]
    return method.merge_factors(spec.name, factors, facts)
