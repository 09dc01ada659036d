"""DC-Merge: task vectors projected to bases that cover the leading directions of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.consensus import elected_mean
from weft.merging.hyperparameters import option
from weft.merging.linear_joint import LinearJoint
from weft.merging.magnitudes import keep_from, magnitudes
from weft.merging.matrices import tables_option
from weft.merging.method import Facts
from weft.merging.spectra import polar, thin_svd


@dataclass(frozen=True, slots=True, kw_only=True)
class DcMerge(LinearJoint):
    """scale * U (mask * TIES(M_1, .., M_n)) V^T, with M_i = U^T D_i' V.

    D_i' has the r leading singular triplets of D_i, with smoothed values. U, (out, n r),
    and V, (in, n r), are the nearest orthonormal bases to the n r left and right vectors
    side by side (polar factors). In these, the largest entries of each M_i are kept, a
    sign is elected for each place by the weighted sum, and those that have it are
    averaged by weight. The mask keeps the n diagonal blocks, (r, r): what a contribution
    does between its own directions. A negative weight turns its contribution over. Only
    the proportions of the weights matter. Tensors that are not linear weights are
    averaged, so the weights' sum must be positive.

    Attributes:
        rank: r; zero: the shorter side divided by n, at least one. The authors take 16
            for adapters of rank 16.
        density: share of the entries of each M_i that is kept, at least one entry; ties
            are kept. With few or small matrices 0.001 is little: r / (n r)^2 is one for
            each direction.
        smoothing: of the r singular values, whose sum is kept: "none", the authors' for
            full fine-tuning; "mean", all alike; "linear", from `ratio` down to one.
            The latter two are theirs for adapters.
        ratio: rho; of the largest to the smallest value at most, if linear.
        scale: factor of the result; the authors search from 0.1 to 3.
        tables: which tensors are no linear weights.

    Source: Zhang et al. 2026, DC-Merge, arXiv:2603.06242, as in the authors' released
        `DC_utils.py` (full fine-tuning) and `merging_functions.py` (adapters). Where
        directions of contributions coincide, our bases have as many columns as there are
        directions, theirs are filled up at will. The weights are ours.
    """

    proportional: ClassVar[bool] = True

    rank: int = option(0, "directions of each contribution; zero: an n-th of all", least=0)
    density: float = option(0.001, "share of each projection that is kept", above=0, most=1)
    smoothing: str = option("none", "of the singular values", choices=("none", "mean", "linear"))
    ratio: float = option(5.0, "rho, largest to smallest value, if linear", least=1)
    scale: float = option(1.0, "factor of the result")
    tables: str = tables_option()

    def merge_linear(self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> Tensor:
        """Project, trim, elect, mask, map back."""
        rank = self.rank or max(1, min(blocks[0].shape) // len(blocks))
        parts = [_leading(block, rank) for block in blocks]
        sizes = [len(values) for _, values, _ in parts]
        if sum(sizes) == 0:
            return torch.zeros_like(blocks[0])
        left = polar(torch.cat([part[0] for part in parts], dim=1))
        right = polar(torch.cat([part[2] for part in parts]))
        cores = [
            (left.T @ (vectors * self._smoothed(values))) @ (rows @ right.T)
            for vectors, values, rows in parts
        ]
        kept = [_largest(core, self.density) for core in cores]
        merged = elected_mean(kept, [fact.weight for fact in facts])
        own = _diagonal_blocks(sizes)
        return left @ (merged * own) @ right * self.scale

    def _smoothed(self, values: Tensor) -> Tensor:
        """As many values of the same sum."""
        if self.smoothing == "none" or len(values) == 0:
            return values
        first = 1.0
        if self.smoothing == "linear":
            first = min(self.ratio, float(values[0] / values[-1]))
        shares = torch.linspace(first, 1.0, len(values), dtype=values.dtype)
        return values.sum() * shares / shares.sum()


def _leading(block: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = thin_svd(block)
    return left[:, :rank], values[:rank], right[:rank]


def _largest(core: Tensor, density: float) -> Tensor:
    """Zero but for that share of the largest magnitudes, at least one."""
    elements = core.numel()
    if elements == 0:
        return core
    rank = elements - max(1, int(density * elements)) + 1
    return keep_from(core, float(magnitudes(core).flatten().kthvalue(rank).values))


def _diagonal_blocks(sizes: Sequence[int]) -> Tensor:
    """One within the diagonal blocks of these sizes, zero elsewhere."""
    owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return (owners.unsqueeze(1) == owners).to(torch.float64)
