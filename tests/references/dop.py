"""DOP with autograd and torch's Adam, as in FusionBench's `dop.py`.

Directions up to and with the one at which `mass` is reached. Weights, which theirs does
not have, scale task vectors.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    alpha: float,
    inertia: float,
    mass: float,
    steps: int,
    rate: float,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    found = {}
    for name, start in base.items():
        taus = [
            w * (m[name].double() - start.double()) for m, w in zip(models, weights, strict=True)
        ]
        merged = taus[0]
        for tau in taus[1:]:
            middle = (merged + tau) / 2
            if name not in averaged:
                middle = _optimised([merged, tau], alpha, inertia, mass, steps, rate)
            merged = middle
        found[name] = start.double() + merged
    return found


def _optimised(
    targets: Sequence[Tensor], alpha: float, beta: float, mass: float, steps: int, rate: float
) -> Tensor:
    x = ((targets[0] + targets[1]) / 2).requires_grad_()
    factors = [_leading(target, mass) for target in targets]
    adam = torch.optim.Adam([x], lr=rate)
    ema = [alpha, 1 - alpha]
    for _ in range(steps):
        losses = [_loss(x, t, *f) for t, f in zip(targets, factors, strict=True)]
        slopes = [torch.autograd.grad(loss, x)[0] for loss in losses]
        scaled = [(s / loss.detach()).flatten() for s, loss in zip(slopes, losses, strict=True)]
        c = _min_norm(*scaled)
        ema = [beta * e + (1 - beta) * s for e, s in zip(ema, (c, 1 - c), strict=True)]
        x.grad = ema[0] * slopes[0] + ema[1] * slopes[1]
        adam.step()
    return x.detach()


def _leading(target: Tensor, mass: float) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vt = torch.linalg.svd(target, full_matrices=False)
    count = int(torch.searchsorted(s.cumsum(0) / s.sum(), mass)) + 1
    return u[:, :count], s[:count], vt[:count].T


def _loss(x: Tensor, target: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    error = x - target
    left = torch.diag(s) @ u.T @ error
    right = error @ v @ torch.diag(s)
    total: Tensor = left.square().sum() + right.square().sum()
    return total


def _min_norm(one: Tensor, two: Tensor) -> float:
    v11, v12, v22 = (float(a @ b) for a, b in ((one, one), (one, two), (two, two)))
    if v12 >= v11:
        return 0.999
    if v12 >= v22:
        return 0.001
    return -(v12 - v22) / (v11 + v22 - 2 * v12)
