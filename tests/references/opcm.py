"""OPCM in numpy: arXiv:2501.09522, algorithm 1, as a recursion over scaled models.

    theta_t = theta_0 + (lambda_(t-1) M + P_M(tau_t)) / lambda_t,   M = theta_(t-1) - theta_0

with lambda_t such that the merged task vector has the mean norm of those before it, all
parameters together. Full decompositions, the diagonal removed up to the rank. Weights,
which the paper does not have, scale task vectors.
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
    alpha: float,
    projection: str = "block",
    others: Collection[str] = (),
) -> tuple[dict[str, Tensor], list[float]]:
    """Merged parameters, and every lambda; `others` are those that are no linear weights."""
    start = {name: tensor.double().numpy() for name, tensor in base.items()}
    merged = {name: np.zeros_like(values) for name, values in start.items()}
    norms: list[float] = []
    lambdas = [1.0]
    for model, weight in zip(models, weights, strict=True):
        tau = {name: weight * (model[name].double().numpy() - start[name]) for name in start}
        norms.append(norm(tau))
        raw = {
            name: lambdas[-1] * merged[name]
            + (
                tau[name]
                if name in others
                else projected(merged[name], tau[name], alpha, projection)
            )
            for name in start
        }
        lambdas.append(norm(raw) / float(np.mean(norms)))
        merged = {name: values / lambdas[-1] for name, values in raw.items()}
    found = {name: torch.from_numpy(start[name] + merged[name]) for name in start}
    return found, lambdas[1:]


def norm(model: Mapping[str, np.ndarray]) -> float:
    """Euclidean, over all parameters."""
    return float(np.sqrt(sum((values**2).sum() for values in model.values())))


def projected(anchor: np.ndarray, tau: np.ndarray, alpha: float, projection: str) -> np.ndarray:
    """U (mask * U^T tau V) V^T with full bases."""
    if not anchor.any():
        return tau
    u, s, vt = np.linalg.svd(anchor, full_matrices=True)
    rank = int((s > s[0] * 1e-7).sum())
    r = rank if alpha >= 1 else int((np.cumsum(s) / s.sum() <= alpha).sum())
    z = u.T @ tau @ vt.T
    if projection == "rows_and_columns":
        z[:r] = 0
        z[:, :r] = 0
    z[:r, :r] = 0
    if projection != "released":
        z[np.arange(rank), np.arange(rank)] = 0
    clean: np.ndarray = u @ z @ vt
    return clean
