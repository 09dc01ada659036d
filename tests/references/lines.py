"""LiNeS, Wang et al. 2025, arXiv:2410.17146: the task vector of block l = 1 .. L is scaled

by alpha + beta (l - 1) / (L - 1), all other tensors by alpha (the authors' code).
"""

from torch import Tensor

Model = dict[str, Tensor]


def lines(
    base: Model, model: Model, blocks: dict[str, int], *, alpha: float, beta: float, count: int
) -> Model:
    """`blocks` says which block, from 1, each tensor is in that is in one."""
    result = {}
    for name in base:
        scale = alpha
        if name in blocks:
            scale = alpha + beta * (blocks[name] - 1) / (count - 1)
        result[name] = base[name] + scale * (model[name] - base[name])
    return result
