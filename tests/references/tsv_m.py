"""TSV-M in numpy, the steps of the authors' released `TSVM_utils.py` for arXiv:2412.00081.

Weights scale task vectors, as a list of alphas does in FusionBench, but are first brought
to a mean of one. A polar factor is taken of the numerical rank.
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
    budget: int,
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
            delta = scale * tsv_m(scaled, min(deltas[0].shape) // (budget or len(deltas)))
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def tsv_m(deltas: Sequence[np.ndarray], k: int) -> np.ndarray:
    us, ss, vts = [], [], []
    for delta in deltas:
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
        us.append(u[:, :k])
        ss.append(s[:k])
        vts.append(vt[:k])
    left, right = _orthonormal(np.hstack(us)), _orthonormal(np.vstack(vts))
    merged: np.ndarray = left @ np.diag(np.concatenate(ss)) @ right
    return merged


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(vectors, full_matrices=False)
    rank = int((s > 1e-7 * s[0]).sum())
    nearest: np.ndarray = u[:, :rank] @ vt[:rank]
    return nearest
