"""A continual merge in memory: what a stream service does, without files.

Task vectors come one after another; the state is that of the method's own contract, a
`FoldState` or a sequential method's mapping, a tensor at a time.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streams.knowledge import Knowledge
from weft.merging.folding import FoldState
from weft.merging.magnitudes import magnitudes
from weft.merging.method import Cut, Extent, Facts, Fold, Method, Need, Scope, Sequential, Totals
from weft.merging.precision import Precision
from weft.merging.registry import create

Model = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Row:
    """A merge to compare.

    Attributes:
        name: in tables and figures.
        method: of the registry.
        options: of the method.
        scale: factor of the merged task vector.
        ordered: whether the result depends on the order of arrival.
    """

    name: str
    method: str
    options: Mapping[str, float | str | bool] = field(default_factory=dict)
    scale: float = 1.0
    ordered: bool = False

    @property
    def unscaled(self) -> str:
        """Equal for rows that differ in their scale alone."""
        return f"{self.method} {sorted(self.options.items())}"


class Running:
    """The merge of a row under way, before it is scaled."""

    def __init__(self, row: Row, base: Model) -> None:
        self._row, self._base = row, base
        self._method = create(row.method, **row.options)
        self._precision = Precision.FLOAT32
        self._folds: dict[str, FoldState] = {}
        self._states: dict[str, Mapping[str, Tensor]] = {}
        self._count = 0
        self.knowledge = Knowledge()
        for name, tensor in base.items():
            shape = self._shape(name, tensor)
            if isinstance(self._method, Fold):
                self._folds[name] = FoldState.zero(
                    self._method, name, shape, tensor_shape=tuple(tensor.shape),
                    precision=self._precision,
                )  # fmt: skip
            elif isinstance(self._method, Sequential):
                wide = tensor.reshape(shape).double()
                self._states[name] = self._method.init(name, shape, wide)
            else:
                raise TypeError(f"{row.method} does not stream")

    def add(self, deltas: Model) -> None:
        """One contribution more."""
        self._count += 1
        self.knowledge.add(deltas)
        model_cuts = _cuts(self._method, Extent.MODEL, deltas.values())
        for name, delta in deltas.items():
            block = delta.reshape(self._shape(name, delta))
            facts = Facts(
                contribution=f"{self._count:04}",
                norm=self.knowledge.last if Need.NORM in self._method.needs else None,
                cuts=model_cuts or _cuts(self._method, Extent.TENSOR, [delta]),
            )
            if isinstance(self._method, Fold):
                self._folds[name].take(block.float(), facts)
            elif isinstance(self._method, Sequential):
                self._states[name] = self._method.absorb(
                    name, self._states[name], block.double(), facts
                )

    def merged(self) -> dict[str, Tensor]:
        """The merged task vector, unscaled."""
        totals = Totals(count=self._count, weight=float(self._count))
        found: dict[str, Tensor] = {}
        for name, tensor in self._base.items():
            if isinstance(self._method, Fold):
                # A copy: of plain floats some methods divide the state itself.
                fold = deepcopy(self._folds[name])
                block = fold.finish(tensor.reshape(self._shape(name, tensor)))
            elif isinstance(self._method, Sequential):
                block = self._method.result(name, self._states[name], totals)
            found[name] = block.reshape(tensor.shape).float()
        if getattr(self._method, "keeps_mean_norm", False):
            factor = self.knowledge.mean_norm / max(norm_of(found), 1e-30)
            found = {name: value * factor for name, value in found.items()}
        return found

    def _shape(self, name: str, tensor: Tensor) -> tuple[int, ...]:
        shape = tuple(tensor.shape)
        scope = self._method.scope(name, shape)
        if scope is Scope.MATRIX:
            return shape
        if scope is Scope.ROW:
            return (shape[0], tensor.numel() // shape[0]) if len(shape) > 1 else (1, *shape)
        return (tensor.numel(),)


def norm_of(model: Model) -> float:
    """Euclidean, over all tensors."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in model.values()))


def _cuts(method: Method, extent: Extent, tensors: object) -> tuple[float, ...]:
    cuts: tuple[Cut, ...] = tuple(cut for cut in method.cuts if cut.extent is extent)
    if not cuts:
        return ()
    every = torch.cat([magnitudes(each).flatten() for each in tensors])  # type: ignore[attr-defined]
    ranks = [cut.rank(len(every)) for cut in cuts]
    return tuple(every.kthvalue(rank).values.item() if rank > 0 else -math.inf for rank in ranks)
