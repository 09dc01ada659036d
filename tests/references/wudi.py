"""WUDI as what it is: the objective of arXiv:2503.08099, and ways to descend it.

L(D) = sum_i |(D - D_i) D_i^T|^2 / |D_i|^2 from D = sum_i D_i. The gradient flow
dD/dt = R - D C is solved with a matrix exponential, the minimum that is nearest to the
start is a problem of least squares, and ASWUDI's truncation (arXiv:2606.07289) follows
the authors' released `functional.py`. Weights, which neither has, scale task vectors
after being brought to a mean of one; but they leave the |D_i|^-2 D_i^T as it is. On the
output side everything is the same of the transposed task vectors.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    filter: str,
    time: float,
    keep: float,
    scale: float,
    side: str = "input",
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    mean = sum(weights) / len(weights)
    for name, start in base.items():
        deltas = [model[name].double() - start.double() for model in models]
        scaled = [d * (w / mean) for d, w in zip(deltas, weights, strict=True)]
        total = torch.stack(scaled).sum(dim=0)
        if name in averaged:
            merged[name] = start.double() + total / len(deltas)
            continue
        outputs = side == "smaller" and start.shape[0] < start.shape[1]
        if outputs:
            deltas, scaled, total = [d.T for d in deltas], [s.T for s in scaled], total.T
        if filter == "exponential":
            found = _flow(deltas, scaled, total, time)
        elif filter == "ridge":
            found = _ridge(deltas, scaled, time)
        elif filter == "none":
            found = _nearest_minimum(deltas, scaled, total)
        else:
            found = _truncated(deltas, scaled, total)
        if keep < 1:
            found = total + (found - total) @ _largest_directions(deltas, keep)
        merged[name] = start.double() + scale * (found.T if outputs else found)
    return merged


def objective(merged: Tensor, deltas: Sequence[Tensor]) -> Tensor:
    terms = [((merged - d) @ d.T).square().sum() / d.square().sum() for d in deltas]
    return torch.stack(terms).sum()


def _curvature(deltas: Sequence[Tensor]) -> Tensor:
    return torch.stack([d.T @ d / d.square().sum() for d in deltas]).sum(dim=0)


def _pull(deltas: Sequence[Tensor], scaled: Sequence[Tensor]) -> Tensor:
    pairs = zip(deltas, scaled, strict=True)
    return torch.stack([s @ d.T @ d / d.square().sum() for d, s in pairs]).sum(dim=0)


def _flow(deltas: Sequence[Tensor], scaled: Sequence[Tensor], total: Tensor, time: float) -> Tensor:
    # exp of [[-C, I], [0, 0]] t holds exp(-t C) and the integral of exp(-u C), u to t.
    curvature = _curvature(deltas)
    size = len(curvature)
    generator = torch.zeros(2 * size, 2 * size, dtype=torch.float64)
    generator[:size, :size] = -curvature
    generator[:size, size:] = torch.eye(size)
    exponential = torch.linalg.matrix_exp(generator * time)
    decay, integral = exponential[:size, :size], exponential[:size, size:]
    reached: Tensor = total @ decay + _pull(deltas, scaled) @ integral
    return reached


def _nearest_minimum(deltas: Sequence[Tensor], scaled: Sequence[Tensor], total: Tensor) -> Tensor:
    inputs = torch.cat([d.T / d.norm() for d in deltas], dim=1)
    wanted = torch.cat([s @ d.T / d.norm() for d, s in zip(deltas, scaled, strict=True)], dim=1)
    step = torch.linalg.lstsq(inputs.T, (wanted - total @ inputs).T, driver="gelsd").solution.T
    nearest: Tensor = total + step
    return nearest


def _ridge(deltas: Sequence[Tensor], scaled: Sequence[Tensor], time: float) -> Tensor:
    # The least of L(D) + |D|^2 / time, as a problem of least squares.
    own = torch.eye(deltas[0].shape[1], dtype=torch.float64) / math.sqrt(time)
    inputs = torch.cat([*(d.T / d.norm() for d in deltas), own], dim=1)
    wanted = [s @ d.T / d.norm() for d, s in zip(deltas, scaled, strict=True)]
    nothing = torch.zeros_like(deltas[0])
    solution: Tensor = torch.linalg.lstsq(inputs.T, torch.cat([*wanted, nothing], dim=1).T).solution
    return solution.T


def _truncated(deltas: Sequence[Tensor], scaled: Sequence[Tensor], total: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(_curvature(deltas))
    values, vectors = values.clamp(min=0).flip(0), vectors.flip(1)
    rank = math.ceil(float(values.sqrt().sum() ** 2 / values.sum()) - 1e-6)
    top, axes = values[:rank], vectors[:, :rank]
    minimum = _pull(deltas, scaled) @ axes @ torch.diag(1 / top) @ axes.T
    truncated: Tensor = total - total @ axes @ axes.T + minimum
    return truncated


def _largest_directions(deltas: Sequence[Tensor], keep: float) -> Tensor:
    _, vectors = torch.linalg.eigh(_curvature(deltas))
    axes = vectors.flip(1)[:, : math.ceil(keep * len(vectors))]
    projector: Tensor = axes @ axes.T
    return projector
