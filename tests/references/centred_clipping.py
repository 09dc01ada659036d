"""Centred clipping on whole models, from arXiv:2012.10333:
v <- v + mean_i (x_i - v) min(1, tau / |x_i - v|), here from the base and with weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    radius: float,
    iterations: int,
) -> dict[str, Tensor]:
    """Merged parameters."""
    centre = dict(base)
    for _ in range(iterations):
        moved = {name: tensor.clone() for name, tensor in centre.items()}
        for model, weight in zip(models, weights, strict=True):
            square = sum(float((model[n] - centre[n]).square().sum()) for n in base)
            part = weight / sum(weights) * min(1.0, radius / square**0.5)
            for name in base:
                moved[name] += part * (model[name] - centre[name])
        centre = moved
    return {name: torch.as_tensor(tensor) for name, tensor in centre.items()}
