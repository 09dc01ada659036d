"""Delta-guided fusion: CoDiEmb, arXiv:2508.11442; the formula is a proposal of ours.

w_j proportional to |D_j| over the tensor, in the norm named, or to its inverse.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, from_numpy

State = dict[str, Tensor]


def delta_guided(
    base: State, models: Sequence[State], *, measure: str = "l1", invert: bool = False
) -> State:
    merged = {}
    for name, start in base.items():
        deltas = [(model[name] - start).double().numpy() for model in models]
        if measure == "l1":
            sizes = [np.abs(d).sum() for d in deltas]
        else:
            sizes = [np.linalg.norm(d.ravel()) ** (1 if measure == "l2" else 2) for d in deltas]
        said = [(1 / s if invert else s) if s > 0 else 0.0 for s in sizes]
        total = sum(said) or 1.0
        change = sum((s / total) * d for s, d in zip(said, deltas, strict=True))
        merged[name] = start + from_numpy(np.asarray(change))
    return merged
