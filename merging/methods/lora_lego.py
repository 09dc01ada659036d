"""LoRA-LEGO: adapters taken apart into units of rank one, clustered, and put together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from weft.merging.factored import FactoredJoint, require_factors
from weft.merging.factors import LowRank
from weft.merging.hyperparameters import option
from weft.merging.matrices import tables_option
from weft.merging.method import Facts

RIGHT_ANGLE: Final = 1e-6
"""Cosines not larger than this are taken for zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraLego(FactoredJoint):
    """The centres of k clusters of the rank-one units of all adapters, rescaled twice.

    A unit is a column of B with its row of A, as one vector (b, a) of out + in numbers.
    Since (t b, a / t) does the same for every t, units are made equally long in both
    halves, and compared up to their common sign; a unit at right angles to a centre takes
    the sign that makes its largest entry positive. k-means starts from the longest unit
    and then from whichever lies furthest from those chosen: no randomness. A centre is
    the mean of its members; its norm is then set to their mean norm, since unlike vectors
    average to a short one, and the whole is multiplied by sqrt(r / k), r being the mean
    number of units of a contribution, since k units of that norm add up to more than r.

    Weights count in the means of a cluster, by their magnitude; a negative one turns its
    units over. Only their proportions matter. Of dense task vectors, the units are the
    singular triplets. Tensors that are not linear weights are averaged, so the weights'
    sum must be positive.

    Attributes:
        rank: k, of the result; zero: the largest number of units of a contribution. A
            cluster that loses all members is left out.
        rounds: of k-means, at most.
        tables: which tensors are no linear weights.

    Source: Zhao et al. 2025, Merging LoRAs like playing LEGO, arXiv:2409.16167: units,
        clustering, and the two reweightings as the abstract and summaries tell them; the
        body was not to be had, so their constants are ours, as are the balancing of the
        halves, the signs, the start of k-means and the weights.
    """

    proportional: ClassVar[bool] = True

    rank: int = option(0, "k, of the result; zero: the largest that comes in", least=0)
    rounds: int = option(30, "of k-means, at most", least=1)
    tables: str = tables_option()

    @property
    def gives_back_one(self) -> bool:
        """With as many clusters as units."""
        return self.rank == 0

    def merge_factors(
        self, name: str, factors: Sequence[LowRank], facts: Sequence[Facts]
    ) -> LowRank:
        """Units, clusters, centres."""
        require_factors(name, factors, facts)
        apart = [_units(part, fact.weight) for part, fact in zip(factors, facts, strict=True)]
        counts = [len(units) for units in apart]
        shares = torch.tensor([abs(fact.weight) for fact in facts], dtype=torch.float64)
        units, shares = torch.cat(apart), shares.repeat_interleave(torch.tensor(counts))
        centres = self._clustered(units, shares, self.rank or max(counts))
        outputs = factors[0].shape[0]
        spread = math.sqrt(sum(counts) / len(counts) / max(len(centres), 1))
        return LowRank(centres[:, :outputs].T * spread, centres[:, outputs:])

    def _clustered(self, units: Tensor, shares: Tensor, clusters: int) -> Tensor:
        """At most that many centres, each as long as its members in the mean."""
        if len(units) <= clusters:
            return units
        centres = units[_far_apart(units, clusters)]
        labels, signs = _nearest(units, centres)
        for _ in range(self.rounds):
            centres = _means(units * signs.unsqueeze(1), shares, labels, centres)
            before = labels
            labels, signs = _nearest(units, centres)
            if torch.equal(labels, before):
                break
        return _rescaled(units * signs.unsqueeze(1), shares, labels, clusters)


def _units(part: LowRank, weight: float) -> Tensor:
    """(units, out + in): those that do anything, both halves equally long."""
    columns, rows = part.B.T, part.A
    heights, widths = columns.norm(dim=1), rows.norm(dim=1)
    used = (heights > 0) & (widths > 0)
    ratios = (widths[used] / heights[used]).sqrt().unsqueeze(1)
    halves = [columns[used] * ratios * math.copysign(1, weight), rows[used] / ratios]
    units = torch.cat(halves, dim=1)
    largest = units.gather(1, units.abs().argmax(dim=1, keepdim=True))
    return units * largest.sign()


def _distances(units: Tensor, centres: Tensor) -> Tensor:
    """Squared distances up to sign, (units, centres)."""
    lengths: Tensor = units.square().sum(1, keepdim=True) + centres.square().sum(1)
    return lengths.sub_((units @ centres.T).abs_(), alpha=2)


def _far_apart(units: Tensor, clusters: int) -> list[int]:
    """The longest unit, then again and again the one furthest from those chosen."""
    chosen = [int(units.square().sum(1).argmax())]
    gaps = _distances(units, units[chosen])[:, 0]
    while len(chosen) < clusters:
        gaps[chosen[-1]] = -math.inf
        chosen.append(int(gaps.argmax()))
        gaps = torch.minimum(gaps, _distances(units, units[chosen[-1:]])[:, 0])
    return chosen


def _nearest(units: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each unit, the first of a tie, and the sign towards it."""
    labels = _distances(units, centres).argmin(dim=1)
    own = centres[labels]
    along = (units * own).sum(1)
    # Units of one contribution are often at right angles: rounding must not turn them.
    against = along < -RIGHT_ANGLE * units.norm(dim=1) * own.norm(dim=1)
    return labels, torch.where(against, -1.0, 1.0).to(units.dtype)


def _means(units: Tensor, shares: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The weighted means of the members; a cluster without any stays where it was."""
    sums = torch.zeros_like(centres).index_add_(0, labels, units * shares.unsqueeze(1))
    totals = torch.zeros_like(centres[:, 0]).index_add_(0, labels, shares).unsqueeze(1)
    return torch.where(totals > 0, sums / totals, centres)


def _rescaled(units: Tensor, shares: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """The centres of clusters that have members, with their members' mean norm."""
    zeros = torch.zeros((clusters, units.shape[1]), dtype=units.dtype)
    centres = _means(units, shares, labels, zeros)
    norms = _means(units.norm(dim=1, keepdim=True), shares, labels, zeros[:, :1])
    lengths = centres.norm(dim=1, keepdim=True)
    full = lengths[:, 0] > 0
    scaled: Tensor = centres[full] * (norms[full] / lengths[full])
    return scaled
