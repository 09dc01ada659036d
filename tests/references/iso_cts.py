"""Iso-CTS in numpy, the steps of the authors' released `iso.py` for arXiv:2502.04959.

Weights, which it does not have, scale task vectors after being brought to a mean of one.
It takes matrices of full rank for granted; so does this.
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
    common: float,
    scale: float,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        delta = np.average(deltas, axis=0, weights=weights)
        if name not in averaged:
            mean = sum(weights) / len(weights)
            scaled = [d * (w / mean) for d, w in zip(deltas, weights, strict=True)]
            delta = scale * iso_cts(scaled, common)
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def iso_cts(deltas: Sequence[np.ndarray], common: float) -> np.ndarray:
    n, r = len(deltas), min(deltas[0].shape)
    shared = int(r * common)
    shared = r - round((r - shared) / n) * n
    k = (r - shared) // n
    u, s, vt = np.linalg.svd(np.sum(deltas, axis=0), full_matrices=False)
    us, ss, vts = [u[:, :shared]], [s[:shared]], [vt[:shared]]
    projector = np.eye(len(u)) - u[:, :shared] @ u[:, :shared].T
    for delta in deltas:
        u_own, s_own, vt_own = np.linalg.svd(projector @ delta, full_matrices=False)
        us.append(u_own[:, :k])
        ss.append(s_own[:k])
        vts.append(vt_own[:k])
    merged: np.ndarray = (
        np.concatenate(ss).mean() * _orthonormal(np.hstack(us)) @ _orthonormal(np.vstack(vts))
    )
    return merged


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(vectors, full_matrices=False)
    nearest: np.ndarray = u @ vt
    return nearest
