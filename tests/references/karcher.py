"""The Karcher mean on the sphere by brute force: the smallest weighted sum of squared
angles, found by numerical minimisation over all points of the sphere (arXiv:1407.2087,
the definition), at the weighted mean length. Tensor by tensor."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

Point = np.ndarray[tuple[int], np.dtype[np.float64]]


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """Merged parameters, to about seven digits."""
    shares = np.array(weights) / sum(weights)
    merged = {}
    for name, start in base.items():
        deltas = np.stack([(model[name] - start).numpy().reshape(-1) for model in models])
        lengths = np.linalg.norm(deltas, axis=1)
        point = _nearest(deltas / lengths[:, None], shares)
        merged[name] = start + torch.from_numpy(shares @ lengths * point).reshape(start.shape)
    return merged


def _nearest(units: np.ndarray, shares: np.ndarray) -> np.ndarray:
    def cost(point: Point) -> tuple[float, Point]:
        length = np.linalg.norm(point)
        unit = point / length
        cosines = np.clip(units @ unit, -1, 1)
        angles = np.arccos(cosines)
        slopes = shares * 2 * angles / -np.sqrt(np.maximum(1 - cosines**2, 1e-30))
        gradient: Point = slopes @ (units - cosines[:, None] * unit) / length
        return float(shares @ angles**2), gradient

    found = minimize(
        cost, shares @ units, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 2000}
    ).x
    unit: np.ndarray = found / np.linalg.norm(found)
    return unit
