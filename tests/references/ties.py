"""TIES: Yadav et al. 2023, arXiv:2306.01708, algorithm 1 (trim, elect, disjoint merge).

Trimming as in the authors' code: with k = d - int(density d), the k-th smallest magnitude
and all from it on stay. Weights (mergekit's) multiply the trimmed vectors.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, from_numpy

State = dict[str, Tensor]


def ties(
    base: State,
    models: Sequence[State],
    *,
    density: float = 0.2,
    extent: str = "model",
    disjoint: str = "mean",
    scale: float = 1.0,
    weights: Sequence[float] | None = None,
) -> State:
    weights = [1.0] * len(models) if weights is None else weights
    deltas = [{n: (m[n] - base[n]).double().numpy() for n in base} for m in models]
    trimmed = [_trim(delta, density, extent) for delta in deltas]
    return {n: base[n] + scale * _merge([t[n] for t in trimmed], weights, disjoint) for n in base}


def _trim(delta: dict[str, np.ndarray], density: float, extent: str) -> dict[str, np.ndarray]:
    whole = np.concatenate([d.ravel() for d in delta.values()])
    return {
        n: _kept(d, whole if extent == "model" else d.ravel(), density) for n, d in delta.items()
    }


def _kept(delta: np.ndarray, among: np.ndarray, density: float) -> np.ndarray:
    magnitudes = np.sort(np.abs(among.astype(np.float32)))
    k = len(magnitudes) - int(density * len(magnitudes))
    threshold = magnitudes[k - 1] if k >= 1 else 0.0
    return np.where(np.abs(delta.astype(np.float32)) >= threshold, delta, 0.0)


def _merge(trimmed: list[np.ndarray], weights: Sequence[float], disjoint: str) -> Tensor:
    stacked = np.stack([t * w for t, w in zip(trimmed, weights, strict=True)])
    sizes = np.abs(np.array(weights)).reshape(-1, *[1] * (stacked.ndim - 1))
    agrees = (np.sign(stacked) == np.sign(stacked.sum(0))) & (stacked != 0)
    total = (stacked * agrees).sum(0)
    if disjoint == "mean":
        behind = (sizes * agrees).sum(0)
        total = np.divide(total, behind, out=np.zeros_like(total), where=behind > 0)
    return from_numpy(np.asarray(total))
