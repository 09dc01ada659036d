"""DC-Merge in numpy, from arXiv:2603.06242 and the steps of the authors' released scripts
for full fine-tuning and for adapters; unit weights are theirs."""

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
    density: float,
    smoothing: str,
    ratio: float,
    scale: float,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        if name in averaged:
            delta = np.average(deltas, axis=0, weights=weights)
        else:
            r = rank or min(deltas[0].shape) // len(deltas)
            delta = scale * _dc(deltas, weights, r, density, smoothing, ratio)
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def _dc(
    deltas: Sequence[np.ndarray],
    weights: Sequence[float],
    r: int,
    density: float,
    smoothing: str,
    ratio: float,
) -> np.ndarray:
    lefts, rights, smoothed = [], [], []
    for delta in deltas:
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
        lefts.append(u[:, :r])
        rights.append(vt[:r])
        smoothed.append(u[:, :r] @ np.diag(_smooth(s[:r], smoothing, ratio)) @ vt[:r])
    left, right = _orthonormal(np.hstack(lefts)), _orthonormal(np.vstack(rights))
    small = [_keep(left.T @ matrix @ right.T, density) for matrix in smoothed]
    votes = sum(w * m for w, m in zip(weights, small, strict=True))
    above = np.zeros_like(small[0])
    below = np.zeros_like(small[0])
    for weight, matrix in zip(weights, small, strict=True):
        agrees = np.sign(matrix) == np.sign(votes)
        above += weight * matrix * agrees
        below += weight * agrees
    core = np.where(np.asarray(votes) == 0, 0.0, above / np.where(below == 0, 1.0, below))
    mask = np.kron(np.eye(len(deltas)), np.ones((r, r)))
    merged: np.ndarray = left @ (core * mask) @ right
    return merged


def _smooth(s: np.ndarray, smoothing: str, ratio: float) -> np.ndarray:
    if smoothing == "none":
        return s
    steps = np.ones(len(s))
    if smoothing == "linear":
        steps = np.linspace(min(ratio, s[0] / s[-1]), 1.0, len(s))
    spread: np.ndarray = s.sum() * steps / steps.sum()
    return spread


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(vectors, full_matrices=False)
    nearest: np.ndarray = u @ vt
    return nearest


def _keep(matrix: np.ndarray, density: float) -> np.ndarray:
    count = max(1, int(density * matrix.size))
    threshold = np.sort(np.abs(matrix), axis=None)[-count]
    kept: np.ndarray = matrix * (np.abs(matrix) >= threshold)
    return kept
