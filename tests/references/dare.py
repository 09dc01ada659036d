"""DARE, Yu et al. 2024, arXiv:2311.03099, drop and rescale: m ~ Bernoulli(p),

delta~ = (1 - m) delta, delta^ = delta~ / (1 - p). The draws are given. With `l1`, as
mergekit's `sparsify.py` describes it, the L1 norm of each tensor is matched instead.
"""

from torch import Tensor

Model = dict[str, Tensor]


def dare(base: Model, model: Model, dropped: dict[str, Tensor], *, p: float, rescale: str) -> Model:
    result = {}
    for name in base:
        delta = model[name] - base[name]
        left = (1 - dropped[name].double()) * delta
        if rescale == "exact":
            left = left / (1 - p)
        elif rescale == "l1" and left.any():
            left = left * (delta.abs().sum() / left.abs().sum())
        result[name] = base[name] + left
    return result
