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
        block: float32 or float64; not modified.
        cut: a float32 value, as in `Facts.cuts`.
    """
    if cut <= 0:
        return block.clone()
    if block.dtype == torch.float32 and cut < math.inf:
        # |x| > the number before the cut is |x| >= cut, in one pass over memory.
        before = torch.nextafter(torch.tensor(cut), torch.tensor(0.0)).item()
        return hardshrink(block, before)
    return torch.where(magnitudes(block) >= cut, block, torch.zeros_like(block))
