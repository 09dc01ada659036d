"""Magnitudes as ranks see them: float32, whatever a task vector is computed in.

>>> keep_from(torch.tensor([0.5, -2.0, 1.0]), 1.0).tolist()
[0.0, -2.0, 1.0]
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import hardshrink


def magnitudes(block: Tensor) -> Tensor:
    """|D| rounded to float32, of the block's shape; a new tensor."""
    return block.abs().to(torch.float32)


def keep_from(block: Tensor, cut: float) -> Tensor:
    """The block, zero where its magnitude lies below the cut; a tie is kept.

    Args:
        block: float32 or float64; not modified. A NaN is kept.
        cut: a float32 value, as in `Facts.cuts`.
    """
    return keep_above(block, _before(cut)) if cut > 0 else block.clone()


def keep_above(block: Tensor, cut: float) -> Tensor:
    """The block, zero where its magnitude does not lie above the cut; a tie is dropped.

    Args:
        block: float32 or float64; not modified. A NaN is kept.
        cut: a float32 value, as in `Facts.cuts`.
    """
    if cut < 0:
        return block.clone()
    # |x| > t in one pass over memory, without a mask.
    return hardshrink(block, cut if block.dtype == torch.float32 else _last_rounded_to(cut))


def _last_rounded_to(cut: float) -> float:
    """The largest double that becomes the cut when it is rounded to float32."""
    if cut == math.inf:
        return cut
    after = _nextafter(cut, math.inf)
    # Exact in double precision, also beyond the largest float32.
    middle = cut + ((after if after < math.inf else 2.0**128) - cut) / 2
    # Half-way, rounding goes to the even neighbour.
    return middle if _rounded(middle) == cut else math.nextafter(middle, 0.0)


def _before(cut: float) -> float:
    return _nextafter(cut, 0.0)


def _nextafter(value: float, towards: float) -> float:
    return torch.nextafter(torch.tensor(value), torch.tensor(towards)).item()


def _rounded(value: float) -> float:
    return torch.tensor(value, dtype=torch.float64).to(torch.float32).item()
