"""Multi-SLERP in numpy with all its steps, as its author describes them (and as mergekit's
documentation does): to the tangent space at the mean direction, there the weighted sum,
back by the exponential map, at the mean length. Tensor by tensor."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """Merged parameters."""
    shares = np.array(weights) / sum(weights)
    merged = {}
    for name, start in base.items():
        deltas = np.stack([(model[name] - start).numpy().reshape(-1) for model in models])
        lengths = np.linalg.norm(deltas, axis=1)
        units = deltas / lengths[:, None]
        mean = shares @ units
        mean /= np.linalg.norm(mean)
        tangents = units - (units @ mean)[:, None] * mean
        step = shares @ tangents
        size = np.linalg.norm(step) + 1e-30
        point = np.cos(size) * mean + np.sin(size) / size * step
        merged[name] = start + torch.from_numpy(shares @ lengths * point).reshape(start.shape)
    return merged
