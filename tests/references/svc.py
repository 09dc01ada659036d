"""Singular value calibration in numpy, one direction at a time: equations 4 (response) and
8 (projection) and algorithm 1 of arXiv:2602.05536; unit weights are theirs."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def calibrate(
    base: Mapping[str, Tensor],
    merged: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    alpha: float,
    unchanged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Calibrated parameters; `unchanged` are those that are no linear weights."""
    calibrated = {}
    for name, start in base.items():
        whole = (merged[name].double() - start.double()).numpy()
        if name not in unchanged:
            deltas = [(model[name].double() - start.double()).numpy() for model in models]
            whole = _rescaled(whole, deltas, weights, alpha)
        calibrated[name] = start.double() + torch.from_numpy(whole)
    return calibrated


def _rescaled(
    whole: np.ndarray, deltas: Sequence[np.ndarray], weights: Sequence[float], alpha: float
) -> np.ndarray:
    u, s, vt = np.linalg.svd(whole, full_matrices=False)
    for r in range(len(s)):
        mine = u[:, r] @ whole
        total = 0.0
        for delta, weight in zip(deltas, weights, strict=True):
            theirs = u[:, r] @ delta
            total += weight * max(alpha, float(mine @ theirs) / float(theirs @ theirs))
        s[r] *= sum(weights) / total
    rescaled: np.ndarray = u @ np.diag(s) @ vt
    return rescaled
