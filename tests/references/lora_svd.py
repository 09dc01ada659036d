"""The truncated mean or sum of updates in numpy: Eckart and Young 1936."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    rank: int,
    combine: str,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        delta = np.average(deltas, axis=0, weights=weights)
        if name not in averaged:
            whole = delta * sum(weights) if combine == "sum" else delta
            u, s, vt = np.linalg.svd(whole, full_matrices=False)
            delta = (u[:, :rank] * s[:rank]) @ vt[:rank]
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged
