"""ACE-Merging, the steps of the authors' released `strategy.py` for arXiv:2603.02945.

Weights, which it does not have, count a contribution's covariance and its product that
often, after being brought to a mean of one.
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
    regularisation: float,
    heterogeneity: float,
    share: float,
    scale: float,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        delta = np.average(deltas, axis=0, weights=weights)
        if name not in averaged:
            times = np.array(weights) / np.mean(weights)
            delta = scale * ace(deltas, times, regularisation, heterogeneity, share)
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def differ(deltas: Sequence[np.ndarray], heterogeneity: float) -> bool:
    logs = np.log([np.trace(d.T @ d) + 1e-12 for d in deltas])
    return len(deltas) > 1 and bool(logs.var(ddof=1) / (logs.mean() ** 2 + 1e-12) > heterogeneity)


def ace(
    deltas: Sequence[np.ndarray], times: np.ndarray, eps: float, heterogeneity: float, share: float
) -> np.ndarray:
    flag = differ(deltas, heterogeneity)
    mean_trace = np.average([np.trace(d.T @ d) for d in deltas], weights=times)
    eye = np.eye(deltas[0].shape[1])
    sigmas, whole, product = [], np.zeros_like(eye), np.zeros_like(deltas[0])
    for delta, often in zip(deltas, times, strict=True):
        centred = delta - delta.mean(axis=0)
        sigma = centred.T @ centred
        trace = np.trace(sigma) + 1e-12
        e = eps
        if flag:
            sigma, e = sigma / trace, eps / trace
        sigmas.append(sigma)
        whole += often * (sigma + e * eye)
        product += often * centred @ (sigma + e * eye)
    prior = sum(t * s for t, s in zip(times, sigmas, strict=True)).mean(axis=0, keepdims=True)
    if flag:
        prior = prior / (mean_trace + 1e-12)
    merged: np.ndarray = product @ np.linalg.inv(whole + prior)
    if not flag:
        return merged
    mean = whole / len(deltas)
    residual = sum(t * d @ (s - mean) for t, d, s in zip(times, deltas, sigmas, strict=True))
    u, s, vt = np.linalg.svd(residual + merged, full_matrices=False)
    k = int(len(s) * share)
    return merged + (s[:k].mean() * u[:, :k] @ vt[:k] if k else 0.0)
