"""Iso-C in numpy: arXiv:2502.04959, the singular values of the sum all at their mean.

Weights, which the paper does not have, scale task vectors after being brought to a mean
of one. Directions of a null space are left out, where a decomposition gives any at all.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    scale: float,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        delta = np.average(deltas, axis=0, weights=weights)
        if name not in averaged:
            delta = scale * _levelled(delta * len(deltas))
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def _levelled(total: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    rank = np.linalg.matrix_rank(total)
    levelled: np.ndarray = u[:, :rank] @ np.diag(np.full(rank, s[:rank].mean())) @ vt[:rank]
    return levelled
