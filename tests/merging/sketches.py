"""Methods that are not shipped, in a few lines each: do the contracts carry them?

They are registered beside the shipped ones, and the laws run over all. What they leave
out is said in a comment; the formulas are those of the papers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.method import Facts, Fold, Joint, Need, Scope, Sequential, Totals, Transform
from weft.merging.monoids import Field, Shape, scalar
from weft.merging.registry import TABLE, Entry, Kind, Registry
from weft.merging.sums import Count, Sum


def _matrix(shape: Shape) -> Scope:
    return Scope.MATRIX if len(shape) == 2 else Scope.ELEMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties(Fold):
    """Trim, elect signs, average those that agree (arXiv:2306.01708).

    The threshold will be a fact of each contribution, from its sketch; here it is fixed.
    """

    threshold: float = 0.3
    scale: float = 1.0

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        return {"positive": Sum(), "negative": Sum(), "ups": Count(), "downs": Count()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        kept = torch.where(block.abs() >= self.threshold, block, 0.0)
        return {
            "positive": kept.clamp(min=0),
            "negative": kept.clamp(max=0),
            "ups": kept > 0,
            "downs": kept < 0,
        }

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        elected = state["positive"] + state["negative"] > 0
        mean_up = state["positive"] / state["ups"].clamp(min=1)
        mean_down = state["negative"] / state["downs"].clamp(min=1)
        return torch.where(elected, mean_up, mean_down) * self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus(Fold):
    """Keep what at least k models want to keep (arXiv:2405.07813): two looks."""

    phases: ClassVar[int] = 2

    models: int = 2
    share: float = 0.4

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        return {"total": Sum()} if phase == 0 else {"wanted": Count()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if not previous:
            return {"total": block}
        return {"wanted": block.abs() >= self.share * (previous["total"] - block).abs()}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        return torch.where(state["wanted"] >= self.models, state["total"], 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoC(Fold):
    """Level the singular values of the sum (arXiv:2502.04959); vectors: the mean."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    def scope(self, name: str, shape: Shape) -> Scope:
        return _matrix(shape)

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        return {"total": Sum()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return {"total": block}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        if state["total"].ndim != 2:
            return state["total"] / totals.count
        left, values, right = torch.linalg.svd(state["total"], full_matrices=False)
        levelled: Tensor = (left @ right) * values.mean()
        return levelled


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStock(Fold):
    """As far from the base as the angles say (arXiv:2403.19522), tensor by tensor."""

    def scope(self, name: str, shape: Shape) -> Scope:
        return Scope.MATRIX

    @property
    def gives_back_one(self) -> bool:
        return True

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        return {"sum": Sum(), "directions": Sum(bound=1.0)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return {"sum": block, "directions": block / block.norm().clamp(min=1e-300)}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        n = totals.count
        mean = state["sum"] / n
        if n == 1:
            return mean
        cosine = (float(state["directions"].square().sum()) - n) / (n * (n - 1))
        return mean * (n * cosine / max(1 + (n - 1) * cosine, 1e-300))


@dataclass(frozen=True, slots=True, kw_only=True)
class Varm(Fold):
    """Weights from the energy of each tensor (arXiv:2402.16107): a scalar that is lifted."""

    def scope(self, name: str, shape: Shape) -> Scope:
        return Scope.MATRIX

    @property
    def gives_back_one(self) -> bool:
        return True

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        return {"sum": Sum(), "energy": Sum(limbs=2, extent=scalar)}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        energy = block.square().mean()
        return {"sum": block * energy, "energy": energy}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        return state["sum"] / state["energy"].clamp(min=1e-12)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDirection(Fold):
    """Each task vector at unit length: uses a fact of the whole model."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE, Need.NORM})

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        return {"sum": Sum()}

    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return {"sum": block / facts.norm if facts.norm else block}

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        return state["sum"] / totals.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Opcm(Sequential):
    """What is orthogonal to what is there (arXiv:2501.09522).

    Only the diagonal of the projection is removed, and the norms are the tensor's; the
    shipped one needs those of the whole model, as totals.
    """

    def scope(self, name: str, shape: Shape) -> Scope:
        return Scope.MATRIX

    @property
    def gives_back_one(self) -> bool:
        return True

    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        zeros = torch.zeros(shape, dtype=torch.float64)
        return {"sum": zeros, "norms": torch.zeros(1, dtype=torch.float64)}

    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        merged, clean = state["sum"], block
        if block.ndim == 2 and bool(merged.any()):
            left, _, right = torch.linalg.svd(merged, full_matrices=False)
            overlap = torch.einsum("ik,ij,kj->k", left, block, right)
            clean = block - (left * overlap) @ right
        return {"sum": merged + clean, "norms": state["norms"] + block.norm()}

    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        mean_norm = float(state["norms"]) / totals.count
        return state["sum"] * (mean_norm / max(float(state["sum"].norm()), 1e-300))


@dataclass(frozen=True, slots=True, kw_only=True)
class Median(Joint):
    """The coordinate-wise median."""

    @property
    def gives_back_one(self) -> bool:
        return True

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        return torch.stack(list(blocks)).quantile(0.5, dim=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainMean(Joint):
    """A float sum, which is not free of order: the engine's sorting has to make it so."""

    proportional: ClassVar[bool] = True

    @property
    def gives_back_one(self) -> bool:
        return True

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        total = torch.zeros_like(blocks[0])
        for block, fact in zip(blocks, facts, strict=True):
            total = total + block * fact.weight
        return total / sum(fact.weight for fact in facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest(Joint):
    """The last one given: order is the point."""

    ordered: ClassVar[bool] = True

    @property
    def gives_back_one(self) -> bool:
        return True

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        return blocks[-1].clone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(Transform):
    """No task vector longer than this: by the fact of its norm."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.NORM})

    longest: float = 1.0

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        if facts.norm is None or facts.norm <= self.longest:
            return block.clone()
        return block * (self.longest / facts.norm)


def _entry(method: type, kind: Kind) -> Entry:
    return Entry(f"sketch_{method.__name__}", __name__, method.__name__, kind, "a sketch")


SKETCHES = (
    *(
        _entry(method, Kind.FOLD)
        for method in (Ties, Consensus, IsoC, ModelStock, Varm, MeanDirection)
    ),
    _entry(Opcm, Kind.SEQUENTIAL),
    *(_entry(method, Kind.JOINT) for method in (Median, PlainMean, Newest)),
    _entry(Clip, Kind.TRANSFORM),
)
REGISTRY = Registry((*TABLE, *SKETCHES))
