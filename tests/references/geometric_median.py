"""The geometric median of whole models by brute force: the smallest weighted sum of
distances, found by numerical minimisation (arXiv:1912.13445, the definition)."""

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
    names = list(base)
    points = np.stack(
        [np.concatenate([model[name].numpy().reshape(-1) for name in names]) for model in models]
    )
    shares = np.array(weights) / sum(weights)

    def cost(point: Point) -> tuple[float, Point]:
        distances = np.linalg.norm(points - point, axis=1)
        gradient: Point = (shares / distances) @ (point - points)
        return float(shares @ distances), gradient

    start = shares @ points
    found = minimize(
        cost, start, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 2000}
    ).x
    sizes = [base[name].numel() for name in names]
    parts = torch.split(torch.from_numpy(found), sizes)
    return {name: part.reshape(base[name].shape) for name, part in zip(names, parts, strict=True)}
