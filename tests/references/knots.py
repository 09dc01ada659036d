"""KnOTS-TIES in numpy, from arXiv:2410.19735 and the authors' released steps, with TIES
(arXiv:2306.01708), each weight matrix for itself."""

from collections.abc import Collection, Mapping, Sequence

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
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        if name in averaged:
            delta = np.average(deltas, axis=0, weights=weights)
        else:
            delta = _knots(deltas, weights, density) * scale
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def _knots(deltas: Sequence[np.ndarray], weights: Sequence[float], density: float) -> np.ndarray:
    u, s, vt = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    u, s, vt = u[:, s > 1e-5], s[s > 1e-5], vt[s > 1e-5]
    parts = np.split(np.diag(s) @ vt, len(deltas), axis=1)
    merged: np.ndarray = u @ _ties([_top(part, density) for part in parts], weights)
    return merged


def _top(values: np.ndarray, density: float) -> np.ndarray:
    ranked = np.sort(np.abs(values), axis=None)
    place = ranked.size - int(ranked.size * density)
    threshold = ranked[place - 1] if place > 0 else 0.0
    kept: np.ndarray = np.where(np.abs(values) >= threshold, values, 0.0)
    return kept


def _ties(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    merged = np.zeros_like(parts[0])
    for place in np.ndindex(*merged.shape):
        values = [float(part[place]) for part in parts]
        vote = sum(w * x for w, x in zip(weights, values, strict=True))
        agreeing = [(w, x) for w, x in zip(weights, values, strict=True) if x * vote > 0]
        if agreeing:
            merged[place] = sum(w * x for w, x in agreeing) / sum(w for w, _ in agreeing)
    return merged
