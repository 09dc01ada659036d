"""R-TSVM in numpy: arXiv:2502.06876 in words, as its formulas were not to be had.

Columns are weighted by how many outliers they have, and the rank follows how dense the
task vectors are; then TSV-M, arXiv:2412.00081.
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
    outlier: float,
    zero: float,
    density: float,
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
            columns = column_weights(deltas, outlier)
            scaled = [d * c * (w / mean) for d, c, w in zip(deltas, columns, weights, strict=True)]
            dense = float(np.mean([np.abs(d) > zero * d.std() for d in deltas]))
            r = min(deltas[0].shape)
            k = min(r, max(1, int(r / len(deltas) * dense / density + 1e-9)))
            delta = scale * _tsv_m(scaled, k)
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def column_weights(deltas: Sequence[np.ndarray], outlier: float) -> np.ndarray:
    weights = np.zeros((len(deltas), deltas[0].shape[1]))
    for column in range(deltas[0].shape[1]):
        counts = [
            1 + sum(abs(x - d.mean()) > outlier * d.std() for x in d[:, column]) for d in deltas
        ]
        weights[:, column] = [len(deltas) * count / sum(counts) for count in counts]
    return weights


def _tsv_m(deltas: Sequence[np.ndarray], k: int) -> np.ndarray:
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = _orthonormal(np.hstack([u[:, :k] for u, _, _ in parts]))
    right = _orthonormal(np.vstack([vt[:k] for _, _, vt in parts]))
    merged: np.ndarray = left @ np.diag(np.concatenate([s[:k] for _, s, _ in parts])) @ right
    return merged


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(vectors, full_matrices=False)
    rank = int((s > 1e-7 * s[0]).sum())
    nearest: np.ndarray = u[:, :rank] @ vt[:rank]
    return nearest
