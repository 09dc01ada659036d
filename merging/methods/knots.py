"""KnOTS: the task vectors of a linear weight in one common basis, then TIES."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.consensus import elected_mean
from weft.merging.factored import FactoredJoint, require_factors
from weft.merging.factors import LowRank
from weft.merging.hyperparameters import option
from weft.merging.magnitudes import keep_from, magnitudes
from weft.merging.matrices import tables_option
from weft.merging.method import Facts
from weft.merging.spectra import thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class Knots(FactoredJoint):
    """scale * U TIES(V_1', .., V_n'), where [D_1 .. D_n] = U diag(s) V^T and V_i' = U^T D_i.

    U is a basis of all outputs that any contribution writes to, so V_i', (k, in), holds
    D_i in coordinates that mean the same in every contribution; adapters that were
    trained apart do not share any before. TIES keeps the `density` largest of each V_i',
    elects a sign for each place by the weighted sum, and takes the weighted mean of those
    that have it; a negative weight turns its contribution over. Only the proportions of
    the weights matter. Tensors that are not linear weights are averaged, so the weights'
    sum must be positive.

    Attributes:
        density: share of each V_i' that is kept; a tie at the threshold is kept.
        scale: lambda; 0.6 is the authors' for CLIP-ViT-B/32. Tune it.
        floor: directions of U with a singular value not above it are left out.
        tables: which tensors are no linear weights.

    Source: Stoica et al. 2025, Model merging with SVD to tie the KnOTS, arXiv:2410.19735,
        as in their released `task_merger.py` with the settings of their
        KnOTS-TIES run on CLIP-ViT-B/32. They trim over all layers together, we trim each
        tensor for itself, and average where they leave a tensor as it is; where a sum is
        exactly zero, they elect the sign of the majority, we none. The weights are ours.
    """

    proportional: ClassVar[bool] = True

    density: float = option(0.2, "share of each task vector that is kept", above=0, most=1)
    scale: float = option(0.6, "lambda, the factor of the result")
    floor: float = option(1e-5, "smallest singular value that counts", least=0)
    tables: str = tables_option()

    def merge_factors(
        self, name: str, factors: Sequence[LowRank], facts: Sequence[Facts]
    ) -> LowRank:
        """The basis, and what TIES makes of the coordinates."""
        require_factors(name, factors, facts)
        basis = _common_basis(factors, self.floor)
        kept = [_trimmed((basis.T @ part.B) @ part.A, self.density) for part in factors]
        merged = elected_mean(kept, [fact.weight for fact in facts])
        return LowRank(basis, merged * self.scale)


def _common_basis(factors: Sequence[LowRank], floor: float) -> Tensor:
    """U of [D_1 .. D_n], (out, k), those with singular values above the floor.

    With A_i^T = Q_i R_i, the factor diag(Q_i^T) has orthonormal rows and drops out, so
    the matrix decomposed is only as wide as all ranks together.
    """
    narrow = [part.B @ torch.linalg.qr(part.A.T).R.T for part in factors]
    together = torch.cat(narrow, dim=1)
    if together.numel() == 0:
        return together
    left, values, _ = thin_svd(together)
    return left[:, values > floor]


def _trimmed(coordinates: Tensor, density: float) -> Tensor:
    """Zero but for the largest magnitudes, by the rank that TIES takes as threshold."""
    elements = coordinates.numel()
    rank = elements - int(elements * density)
    if rank < 1 or elements == 0:
        return coordinates
    cut = magnitudes(coordinates).flatten().kthvalue(rank).values
    return keep_from(coordinates, float(cut))
