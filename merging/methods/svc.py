"""SVC: singular values of a merged task vector, scaled back where tasks add up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.hyperparameters import option
from weft.merging.matrices import linear_scope, tables_option
from weft.merging.method import Calibration, Facts, Need, Scope
from weft.merging.monoids import Shape
from weft.merging.spectra import RANK_TOLERANCE, thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class Svc(Calibration):
    """s_r <- g_r s_r for the merged M = U diag(s) V^T; U and V stay as they are.

    A direction that several tasks share is counted several times in a sum. How M answers
    in direction u_r is a_r = u_r^T M, (in,), and how a contribution does, a_ri = u_r^T D_i.
    Then p_ri = <a_r, a_ri> / |a_ri|^2 says how many times M does what D_i did there, and

        g_r = sum_i w_i / sum_i w_i max(alpha, p_ri),

    the inverse of the weighted mean. Only contributions of positive weight count; one that
    was subtracted should not be matched. Where a contribution does nothing, p is zero.
    Tensors that are not linear weights are left as they are.

    Attributes:
        alpha: least p that counts, so that g is at most 1 / alpha. The authors take 0.1,
            and 1 after WUDI, which then only shrinks.
        tables: which tensors are no linear weights.

    Source: SVC 2026, When shared knowledge hurts: spectral over-accumulation in model
        merging, arXiv:2602.05536, equations 4 and 8 and algorithm 1, with n contributions
        of weight one, and their released script. A response shorter than 1e-7 s_r is
        taken for that long, so that rounding errors count as nothing; theirs where it is
        shorter than 1e-6, whatever s_r. The weights are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    alpha: float = option(0.1, "least projection that counts", above=0)
    tables: str = tables_option()

    def scope(self, name: str, shape: Shape) -> Scope:
        """Linear weights whole."""
        return linear_scope(name, shape, self.tables)

    def calibrate(
        self, name: str, merged: Tensor, blocks: Sequence[Tensor], facts: Sequence[Facts]
    ) -> Tensor:
        """The merged task vector and what the changed singular values add to it."""
        counted = [pair for pair in zip(blocks, facts, strict=True) if pair[1].weight > 0]
        linear = self.scope(name, tuple(merged.shape)) is Scope.MATRIX
        if not linear or not counted:
            return merged.clone()
        require_finite(name, [merged], [Facts(contribution="what was merged")])
        require_finite(name, [block for block, _ in counted], [fact for _, fact in counted])
        left, values, right = thin_svd(merged)
        total, weights = torch.zeros_like(values), 0.0
        for block, fact in counted:
            responses = left.T @ block.to(torch.float64)
            total += self._projections(values, right, responses) * fact.weight
            weights += fact.weight
        change = (weights / total - 1) * values
        return merged + ((left * change) @ right).to(merged.dtype)

    def _projections(self, values: Tensor, right: Tensor, responses: Tensor) -> Tensor:
        """max(alpha, p_r) of one contribution, for each direction."""
        inner = (right * responses).sum(1) * values
        lengths = torch.maximum(responses.norm(dim=1), values * RANK_TOLERANCE)
        return (inner / lengths.square()).clamp(min=self.alpha)
