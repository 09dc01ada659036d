"""Continual TIES in numpy, as in FusionBench's `opcm/ties_merging.py`.

    M_1 = c tau_1,   M_t = M_(t-1) + c TIES(M_(t-1), tau_t)

with TIES of the sum kind; magnitudes ranked within each tensor. Weights, which theirs does
not have, scale task vectors.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    density: float,
    scale: float,
) -> dict[str, Tensor]:
    """Merged parameters."""
    found = {}
    for name, start in base.items():
        origin = start.double().numpy()
        taus = [
            w * (m[name].double().numpy() - origin) for m, w in zip(models, weights, strict=True)
        ]
        merged = scale * taus[0]
        for tau in taus[1:]:
            merged = merged + scale * _ties(
                np.stack([merged.ravel(), tau.ravel()]), density
            ).reshape(origin.shape)
        found[name] = torch.from_numpy(np.asarray(origin + merged))
    return found


def _ties(rows: np.ndarray, density: float) -> np.ndarray:
    rows = np.stack([_topmost(row, density) for row in rows])
    signs = np.sign(rows.sum(axis=0))
    agreeing = np.where(signs > 0, rows > 0, rows < 0)
    summed: np.ndarray = (rows * agreeing).sum(axis=0)
    return summed


def _topmost(row: np.ndarray, density: float) -> np.ndarray:
    k = len(row) - int(len(row) * density)
    kept: np.ndarray = row * (np.abs(row) >= np.sort(np.abs(row))[max(k - 1, 0)])
    return row if k == 0 else kept
