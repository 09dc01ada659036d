"""Means over contributions that are all at hand, and the check that they can be merged.

For joint methods, which see every contribution's block at once. Weights count as they
are; those of weight zero were left out by the caller.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.method import Facts
from weft.merging.monoids import first_marked


def require_finite(name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> None:
    """No NaN and no infinity: comparisons and decompositions would hide where it was.

    Raises:
        NonFinite: names contribution, tensor and value.
    """
    for block, fact in zip(blocks, facts, strict=True):
        if block.numel() == 0 or all(math.isfinite(end.item()) for end in torch.aminmax(block)):
            continue
        value = first_marked(block, ~block.isfinite())
        raise NonFinite(
            f"{fact.contribution}, tensor {name!r}: {value} found, expected finite numbers"
        )


def total_weight(name: str, facts: Sequence[Facts]) -> float:
    """The sum of the weights, as a mean divides by it.

    Raises:
        CannotMerge: it is not positive.
    """
    total = math.fsum(fact.weight for fact in facts)
    if not total > 0:
        raise CannotMerge(
            f"tensor {name!r}: the weights of {len(facts)} contributions sum to {total:g};"
            " a mean needs more than zero"
        )
    return total


def weighted_mean(name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> Tensor:
    """sum_i w_i D_i / sum_i w_i, in the blocks' dtype, added in the order given.

    Raises:
        CannotMerge: the weights do not sum to more than zero.
    """
    total = torch.zeros_like(blocks[0])
    for block, fact in zip(blocks, facts, strict=True):
        total += block * fact.weight
    return total / total_weight(name, facts)


def elected_mean(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """At each place, the weighted mean of those that have the sign of the weighted sum.

    A zero takes no part, so what was trimmed away does not pull the mean down. A negative
    weight turns its block over. Where the sum is zero, so is the mean.

    Args:
        blocks: of one shape and dtype; not modified.
        weights: one for each; none is zero.
    """
    total = torch.zeros_like(blocks[0])
    for block, weight in zip(blocks, weights, strict=True):
        total += block * weight
    signs = total.sign()
    lengths, shares = torch.zeros_like(total), torch.zeros_like(total)
    for block, weight in zip(blocks, weights, strict=True):
        agreeing = (block * weight * signs).clamp_(min=0)
        lengths += agreeing
        shares += agreeing.sign_() * abs(weight)
    return signs * lengths / shares.add_(shares == 0)
