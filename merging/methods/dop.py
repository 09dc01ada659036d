"""DOP: between the merged matrix and the newcomer, close to both where each is strong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.adam import Adam
from weft.merging.consensus import require_finite
from weft.merging.hyperparameters import option
from weft.merging.matrices import is_linear, linear_scope, tables_option
from weft.merging.method import Facts, Need, Scope, Sequential, Totals
from weft.merging.monoids import Shape
from weft.merging.spectra import thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class Dop(Sequential):
    """M <- argmin of a L_M + (1 - a) L_D, from (M + w D) / 2, for linear weights.

    L_T(X) = |S U^T (X - T)|^2 + |(X - T) V S|^2 with T = U S V^T, of which the leading
    singular values count that hold `mass` of their sum. `steps` steps of Adam. Before
    each, a moves by 1 - `inertia` towards the share at which a L'_M / L_M and
    (1 - a) L'_D / L_D have the shortest sum, held between 0.001 and 0.999. All other
    tensors, and tables, become (M + w D) / 2. The first one goes in whole. Weights scale
    task vectors; a negative one unlearns. Order matters.

    Attributes:
        alpha: a at the start; near one what is there counts most.
        inertia: how slowly a moves; 1 holds it.
        mass: share of the sum of the singular values that counts.
        steps: of Adam.
        rate: of Adam, in units of the weights.
        tables: which tensors are no linear weights.

    Source: Yang et al. 2025, Continual Model Merging without Data, NeurIPS,
        openreview:zD5cUX67b9, as in FusionBench's `dop.py` and its configuration (of the
        paper only the abstract was to be had). They leave out the direction at which `mass`
        is reached, which of a matrix of rank one is all there is. Where a loss is zero,
        which theirs divides by, its gradient is left at zero. The weights are ours. Cost:
        with the defaults 800 to 1,200 products of the matrix's size a newcomer, some
        hundred times the cost of `opcm`. Memory: a state of 8 bytes an element; while it
        absorbs, about 100 bytes an element of a linear weight and 48 for the square of its
        smaller side.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    alpha: float = option(0.8, "weight of what is there, at the start", least=0, most=1)
    inertia: float = option(0.999, "how slowly that weight moves", least=0, most=1)
    mass: float = option(0.99999, "share of the singular values' sum", above=0, most=1)
    steps: int = option(200, "steps of Adam", least=0)
    rate: float = option(1e-4, "learning rate", above=0)
    tables: str = tables_option()

    def scope(self, name: str, shape: Shape) -> Scope:
        """Linear weights whole."""
        return linear_scope(name, shape, self.tables)

    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        """The base, and that nobody came yet."""
        return {
            "merged": torch.zeros(shape, dtype=torch.float64),
            "count": torch.zeros(1, dtype=torch.int64),
        }

    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        """Between the two; raises NonFinite where the newcomer is not finite."""
        require_finite(name, [block], [facts])
        merged, delta = state["merged"], block * facts.weight
        count = state["count"] + 1
        if bool(count == 1):
            return {"merged": delta, "count": count}
        if is_linear(name, tuple(block.shape), self.tables):
            return {"merged": self._between(merged, delta), "count": count}
        return {"merged": (merged + delta) / 2, "count": count}

    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The merged task vector."""
        return state["merged"]

    def _between(self, merged: Tensor, delta: Tensor) -> Tensor:
        found = (merged + delta) / 2
        old, new = _Side.of(merged, self.mass), _Side.of(delta, self.mass)
        share, adam = self.alpha, Adam(self.rate)
        for _ in range(self.steps):
            (loss_old, slope_old), (loss_new, slope_new) = old.slope(found), new.slope(found)
            shortest = _shortest(slope_old / (loss_old or 1.0), slope_new / (loss_new or 1.0))
            share = self.inertia * share + (1 - self.inertia) * shortest
            adam.step(found, share * slope_old + (1 - share) * slope_new)
        return found


@dataclass(frozen=True, slots=True)
class _Side:
    """One task vector T and how much each of its directions counts.

    Attributes:
        target: T, (out, in).
        outputs: matrices whose product is U S^2 U^T, (out, out).
        inputs: matrices whose product is V S^2 V^T, (in, in).
    """

    target: Tensor
    outputs: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]

    @staticmethod
    def of(target: Tensor, mass: float) -> "_Side":
        """Without the smallest singular values."""
        left, values, right = thin_svd(target)
        values = values[: int((values.cumsum(0) < mass * values.sum()).sum()) + 1]
        scaled = (each[:, : len(values)] * values for each in (left, right.T))
        return _Side(target, *map(_squared, scaled))

    def slope(self, found: Tensor) -> tuple[float, Tensor]:
        """L_T and its gradient."""
        error = found - self.target
        rows = columns = error
        for part in reversed(self.outputs):
            rows = part @ rows
        for part in self.inputs:
            columns = columns @ part
        slope = rows + columns
        return float((error * slope).sum()), slope.mul_(2)


def _squared(factor: Tensor) -> tuple[Tensor, ...]:
    """F F^T, or F and F^T where it costs less to multiply by both, one after the other."""
    side, rank = factor.shape
    return (factor @ factor.T,) if side <= 2 * rank else (factor, factor.T)


def _shortest(one: Tensor, two: Tensor) -> float:
    """The a at which a X + (1 - a) Y is shortest, between 0.001 and 0.999."""
    first, second = float(one.square().sum()), float(two.square().sum())
    both = float((one * two).sum())
    if both >= first:
        return 0.999
    if both >= second:
        return 0.001
    return (second - both) / (first + second - 2 * both)
