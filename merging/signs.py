"""Signs: a sum split by sign, and the mean of those that have the elected one.

A task vector under a weight v goes into four sums, of which an element moves at most
two. With v below zero it counts as -D under -v.

>>> parts = by_sign(torch.tensor([3.0, -1.0, 0.0]), 2.0)
>>> parts[POSITIVE].tolist(), parts[UPS].tolist(), parts[DOWNS].tolist()
([6.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0])
>>> mean_of_side(parts, torch.tensor([1.0, -1.0, -1.0]), 2.0**-39).tolist()
[3.0, -1.0, 0.0]

Arithmetic all through, without masks: a comparison, or a choice by one, costs five times
as much as a product.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from weft.merging.sums import Sum

POSITIVE: Final = "positive"
"""sum of v D over those above zero."""
NEGATIVE: Final = "negative"
"""sum of v D over those below zero."""
UPS: Final = "ups"
"""sum of |v| over those above zero."""
DOWNS: Final = "downs"
"""sum of |v| over those below zero."""

WEIGHTS: Final = Sum(bound=2.0**4)
"""A sum of weights of which only the proportions matter: the largest is about one."""


def by_sign(block: Tensor, weight: float) -> dict[str, Tensor]:
    """One contribution's addends to the four sums.

    Args:
        block: D, of any shape. Not modified.
        weight: v.
    """
    signs = torch.sign(block)
    if weight != 1:
        block = block * weight
        signs.mul_(weight)
    return {
        POSITIVE: block.clamp(min=0),
        NEGATIVE: block.clamp(max=0),
        UPS: signs.clamp(min=0),
        DOWNS: signs.clamp_(max=0).abs_(),
    }


def sum_of_side(sums: Mapping[str, Tensor], side: Tensor) -> Tensor:
    """The sum over those on one side of zero.

    Args:
        sums: `positive` and `negative`; modified.
        side: 1 (above zero), -1 (below) or 0 (neither), an element. Modified.
    """
    return _chosen(sums[POSITIVE], sums[NEGATIVE], side)


def mean_of_side(sums: Mapping[str, Tensor], side: Tensor, unit: float) -> Tensor:
    """The mean over those on one side of zero; zero where there is none.

    Args:
        sums: all four; modified.
        side: 1 (above zero), -1 (below) or 0 (neither), an element. Modified.
        unit: of the exact sums. Weights below it round to none, and their part of a
            mean is then too small, never too large.
    """
    least = max(unit, torch.finfo(sums[UPS].dtype).tiny)
    upper = sums[POSITIVE].div_(sums[UPS].clamp_(min=least))
    lower = sums[NEGATIVE].div_(sums[DOWNS].clamp_(min=least))
    return _chosen(upper, lower, side)


def quotient(total: Tensor, weights: Tensor, unit: float) -> Tensor:
    """A mean from its two sums; zero where there is nothing. Both are modified."""
    return total.div_(weights.clamp_(min=unit))


def _chosen(upper: Tensor, lower: Tensor, side: Tensor) -> Tensor:
    return upper.mul_(side.clamp(min=0)).sub_(lower.mul_(side.clamp_(max=0)))
