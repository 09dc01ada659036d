"""NUFILT with autograd and torch's Adam, as in the authors' `nufilt.py`, `filter_lora.py`.

    M_t = M_(t-1) + tau_t (1 - V V^T + B A)

The first model goes in whole. Weights, which theirs does not have, scale task vectors.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    rank: int,
    own: int,
    steps: int,
    rate: float,
    starts: Mapping[str, Tensor],
    others: str,
    vectors: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters.

    Args:
        starts: A before training, by linear weight; empty for none at all.
        others: mean, sum or base.
        vectors: those that are no linear weights.
    """
    found = {}
    for name, start in base.items():
        taus = [
            w * (m[name].double() - start.double()) for m, w in zip(models, weights, strict=True)
        ]
        if name in vectors:
            shares = {"mean": 1 / sum(weights), "sum": 1.0, "base": 0.0}
            found[name] = start.double() + sum(taus, torch.zeros_like(taus[0])) * shares[others]
            continue
        merged = taus[0]
        for tau in taus[1:]:
            merged = merged + tau @ gate(merged, tau, rank, own, steps, rate, starts.get(name))
        found[name] = start.double() + merged
    return found


def gate(
    prev: Tensor, tau: Tensor, rank: int, own: int, steps: int, rate: float, a: Tensor | None
) -> Tensor:
    """1 - V V^T + B A."""
    v = _right(prev)[:, :rank]
    eye = torch.eye(tau.shape[1], dtype=tau.dtype)
    filtered = eye - v @ v.T
    if a is None:
        return filtered
    mine = _right(tau)[:, :own]
    a = a.clone().requires_grad_()
    b = torch.zeros(a.shape[::-1], dtype=a.dtype, requires_grad=True)
    adam = torch.optim.Adam([a, b], lr=rate)
    for _ in range(steps):
        new = prev + tau @ (filtered + b @ a)
        loss = ((tau - new) @ mine).square().sum() + ((prev - new) @ v).square().sum()
        a.grad, b.grad = torch.autograd.grad(loss, [a, b])
        adam.step()
    return (filtered + b @ a).detach()


def _right(matrix: Tensor) -> Tensor:
    _, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    kept: Tensor = vt[s > 1e-7 * s[0]].T
    return kept
