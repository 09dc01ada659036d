"""LARV, Wang et al. 2026, arXiv:2602.09413, its effective rank contrast, in three tiers:

r(A) = exp(H), H the entropy of s_j^2 / |A|_F^2; layers ranked by the mean of
r(theta_0) / r(D), thirds scaled by low, 1 and high. The tiers' bounds are not the paper's.
"""

import math

import torch
from torch import Tensor

Model = dict[str, Tensor]


def larv(base: Model, model: Model, stack: list[list[str]], *, low: float, high: float) -> Model:
    """`stack` names the tensors of each layer; matrices count for its score."""
    scores = []
    for index, names in enumerate(stack):
        found = [
            _effective_rank(base[name]) / _effective_rank(model[name] - base[name])
            for name in names
            if base[name].ndim == 2
        ]
        scores.append((sum(found) / len(found), index))
    scales = dict.fromkeys(base, 1.0)
    for place, (_, index) in enumerate(sorted(scores)):
        for name in stack[index]:
            scales[name] = (low, 1.0, high)[math.floor(3 * (place + 0.5) / len(stack))]
    return {name: base[name] + scales[name] * (model[name] - base[name]) for name in base}


def _effective_rank(matrix: Tensor) -> float:
    squares = torch.linalg.svdvals(matrix) ** 2
    shares = [share for share in (squares / squares.sum()).tolist() if share > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))
