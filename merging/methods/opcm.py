"""OPCM: of each newcomer only what is orthogonal to what is there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.hyperparameters import option
from weft.merging.matrices import is_linear, linear_scope, tables_option
from weft.merging.method import Facts, Need, Scope, Sequential, Totals
from weft.merging.monoids import Shape
from weft.merging.spectra import right_svd

PROJECTIONS: Final = ("block", "released", "rows_and_columns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opcm(Sequential):
    """S <- S + P_S(w D); the merged task vector is S n / |S|, n = mean_i |w_i D_i|.

    Norms are over the whole model, so whoever merges brings the result to n. For linear
    weights, with S = U diag(s) V^T over its numerical rank and Z = U^T D V,

        block               P(D) = D - U_r Z_r V_r^T - sum_{k > r} Z_kk u_k v_k^T
        released            P(D) = D - U_r Z_r V_r^T
        rows_and_columns    P(D) = (1 - U_r U_r^T) D (1 - V_r V_r^T)
                                   - sum_{k > r} Z_kk u_k v_k^T

    where U_r, V_r are the r leading vectors and Z_r = U_r^T D V_r; r counts the singular
    values up to which the cumulative share of their sum is at most `alpha`. With the
    first and the last P(D) is orthogonal to S, and nothing of a copy of S is left. P does
    not depend on the scale of S. While S is zero, and for tensors that are not linear
    weights, P(D) = D. The first task vector goes in whole, so order matters. Weights
    scale task vectors; a negative one unlearns.

    Attributes:
        alpha: the paper finds 0.4 to 0.6 best. At 0 only the diagonal is removed, from 1
            on the block is all of the rank.
        projection: which P; `released` is that of the code released with the paper.
        tables: which tensors are no linear weights.

    Source: Tang et al. 2025, Merging on the Fly Without Retraining, arXiv:2501.09522,
        algorithm 1, whose recursion over scaled models this is in closed form.
        `block` is FusionBench's code of today. The code released with the paper means to
        remove the diagonal too and does not. The paper's formula was to be had second
        hand only: the sum over i, j >= r, read as counting from one, is
        `rows_and_columns`. Theirs removes the diagonal beyond the rank of S as well,
        where the vectors are arbitrary, treats an S of zero alike, and takes r = 0 from
        an alpha of 1 on. The weights are ours. Memory: a state of 8 bytes an element;
        while it absorbs, up to 50 bytes more an element of a linear weight.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE, Need.NORM})
    keeps_mean_norm: ClassVar[bool] = True

    alpha: float = option(0.5, "share of the singular values that the block holds", least=0)
    projection: str = option("block", "what is removed", choices=PROJECTIONS)
    tables: str = tables_option()

    def scope(self, name: str, shape: Shape) -> Scope:
        """Linear weights whole."""
        return linear_scope(name, shape, self.tables)

    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        """The base: a sum of zeros."""
        return {"sum": torch.zeros(shape, dtype=torch.float64)}

    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        """What is left of the newcomer, added; raises NonFinite where it is not finite."""
        require_finite(name, [block], [facts])
        total, delta = state["sum"], facts.weighted(block)
        if is_linear(name, tuple(block.shape), self.tables) and bool(total.any()):
            delta = self.project(total, delta)
        return {"sum": total + delta}

    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The sum, before it is brought to the mean norm."""
        return state["sum"]

    def project(self, anchor: Tensor, delta: Tensor) -> Tensor:
        """P(D) for a linear weight.

        Args:
            anchor: S, (out, in), float64, not zero. Not modified.
            delta: D, of the same shape and dtype. Not modified.
        """
        if anchor.shape[0] < anchor.shape[1]:
            return self.project(anchor.T, delta.T).T
        left, values, right = right_svd(anchor)
        block = self._block(values)
        if left is None and anchor.shape[0] >= 2 * anchor.shape[1]:
            # U = S V / s: all but two products are of the smaller side.
            removed = anchor @ self._removed(right / values, anchor.T @ delta, right, block)
        else:
            left = anchor @ (right / values) if left is None else left
            removed = self._removed(left, delta, right, block)
        kept = torch.sub(delta, removed, out=removed)
        if self.projection == "rows_and_columns":
            across = right[:, :block]
            kept -= (delta @ across) @ across.T
        return kept

    def _removed(self, left: Tensor, delta: Tensor, right: Tensor, block: int) -> Tensor:
        """What the projection takes away, but for columns alone.

        Args:
            left: U, (out, r), or what gives it from the left.
            delta: D, or what stands for it between `left` and `right`.
            right: V, (in, r).
            block: side of the block.
        """
        count = block if self.projection == "released" else right.shape[1]
        left, right = left[:, :count], right[:, :count]
        inner = delta @ right
        # Of Z = U^T D V only the block and the diagonal.
        rows = (left * inner).sum(0).unsqueeze(1) * right.T
        lead = left[:, :block].T
        rows[:block] = (lead @ inner[:, :block]) @ right[:, :block].T
        if self.projection == "rows_and_columns":
            rows[:block] = lead @ delta - rows[:block]
        return left @ rows

    def _block(self, values: Tensor) -> int:
        """r: the side of the block."""
        if self.alpha >= 1:
            return len(values)
        return int((values.cumsum(0) <= self.alpha * values.sum()).sum())
