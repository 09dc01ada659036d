"""NUFILT: the newcomer without its part along the leading inputs of what is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.adam import Adam
from weft.merging.consensus import require_finite
from weft.merging.draws import STEPS, uniform16
from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.matrices import is_linear, linear_scope, tables_option
from weft.merging.method import Facts, Need, Scope, Sequential, Totals
from weft.merging.monoids import Shape
from weft.merging.spectra import thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class Nufilt(Sequential):
    """M <- M + w D (1 - V V^T + B A) for linear weights; M = w D while M is zero.

    V holds the `rank` leading right singular vectors of M, or as many as M has: along
    these inputs the layer stays as it was. B A is an adapter, left out by default, that
    gives back some of what the filter takes: from B = 0, `steps` steps of Adam on

        |(w D - M') V_D|^2 + |(M - M') V|^2

    where M' is the new M and V_D holds the `own` leading right singular vectors of D. A
    starts with draws from a normal distribution of deviation 0.02, which follow from the
    tensor's name alone. Weights scale task vectors; a negative one unlearns. Order
    matters. Of all other tensors, and of tables, the weighted mean, the sum or nothing.

    Attributes:
        rank: of the filter.
        adapter: rank of B A; the authors take 64, and 0 is none.
        own: directions of the newcomer that the adapter is to serve.
        steps: of Adam.
        rate: of Adam.
        others: what becomes of tensors that are no linear weights.
        tables: which tensors are no linear weights.

    Source: Qiu et al. 2025, Null-Space Filtering for Data-Free Continual Model Merging,
        arXiv:2509.21413, as in the authors' released `nufilt.py` and `filter_lora.py` (of
        the paper only the abstract was to be had).
        They filter attention and the first layer of each MLP and leave all else at the
        base: `others` = "base", and `tables` for what is left out. They draw A afresh,
        and filter the first model by the vectors that a decomposition of zeros happens to
        give; ours goes in whole. The weights are ours. Memory: a state of 8 bytes an
        element; while it absorbs, up to 50 bytes more an element of a linear weight.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    rank: int = option(128, "directions of the input that are filtered", least=1)
    adapter: int = option(0, "rank of the adapter; 0: none", least=0)
    own: int = option(8, "directions of the newcomer that the adapter serves", least=0)
    steps: int = option(50, "steps of the adapter's training", least=1)
    rate: float = option(1e-3, "learning rate of the adapter's training", above=0)
    others: str = option("mean", "what becomes of other tensors", choices=("mean", "sum", "base"))
    tables: str = tables_option()

    def scope(self, name: str, shape: Shape) -> Scope:
        """Linear weights whole."""
        return linear_scope(name, shape, self.tables)

    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        """The base."""
        return {"sum": torch.zeros(shape, dtype=torch.float64)}

    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        """What passes the filter, added; raises NonFinite where the newcomer is not finite."""
        require_finite(name, [block], [facts])
        merged, delta = state["sum"], facts.weighted(block)
        if is_linear(name, tuple(block.shape), self.tables):
            if bool(merged.any()) and bool(delta.any()):
                delta = self._filtered(name, merged, delta)
        elif self.others == "base":
            delta = torch.zeros_like(delta)
        return {"sum": merged + delta}

    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The merged task vector; raises CannotMerge where a mean has no weight."""
        total = state["sum"]
        if self.others != "mean" or is_linear(name, tuple(total.shape), self.tables):
            return total
        if not totals.weight > 0:
            raise CannotMerge(
                f"tensor {name!r}: the weights of {totals.count} contributions sum to"
                f" {totals.weight:g}; a mean needs more than zero"
            )
        return total / totals.weight

    def start(self, name: str, inputs: int) -> Tensor:
        """A before training, (adapter, in), float64."""
        draws = uniform16(b"nufilt", name, 0, self.adapter * inputs)
        places = (torch.from_numpy(draws.astype("float64")) + 0.5) / STEPS
        normal: Tensor = torch.special.ndtri(places)
        return normal.reshape(self.adapter, inputs) * 0.02

    def _filtered(self, name: str, merged: Tensor, delta: Tensor) -> Tensor:
        kept = thin_svd(merged, most=self.rank)[2].T
        passed = delta - (delta @ kept) @ kept.T
        if self.adapter > 0:
            passed += self._adapted(name, merged, delta, kept, passed)
        return passed

    def _adapted(
        self, name: str, merged: Tensor, delta: Tensor, kept: Tensor, passed: Tensor
    ) -> Tensor:
        """D B A: what the adapter adds to what passed the filter.

        Args:
            name: of the tensor.
            merged: M, (out, in).
            delta: w D.
            kept: V, (in, r).
            passed: w D (1 - V V^T).
        """
        mine = thin_svd(delta, most=self.own)[2].T
        vectors = torch.cat([mine, kept], dim=1)
        missing = torch.cat([(delta - merged - passed) @ mine, -passed @ kept], dim=1)
        up = self.start(name, delta.shape[1]).to(delta.device)
        down = torch.zeros(up.shape[::-1], dtype=up.dtype, device=up.device)
        adam_up, adam_down = Adam(self.rate), Adam(self.rate)
        for _ in range(self.steps):
            seen, brought = up @ vectors, delta @ down
            error = brought @ seen - missing
            slope_down = 2 * (delta.T @ error) @ seen.T
            slope_up = 2 * (brought.T @ error) @ vectors.T
            adam_down.step(down, slope_down)
            adam_up.step(up, slope_up)
        return (delta @ down) @ up
