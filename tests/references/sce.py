"""SCE: Wan et al. 2024, FuseChat, arXiv:2408.07990: select, calculate, erase.

Selection as in mergekit's `sce`: of the positions whose variance is not zero, the share
with the largest; the sign of a sum of zero is positive. Weights multiply the task vectors
in election and mean.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, from_numpy

State = dict[str, Tensor]


def sce(
    base: State,
    models: Sequence[State],
    *,
    select: float = 1.0,
    weights: Sequence[float] | None = None,
) -> State:
    sizes = np.array([1.0] * len(models) if weights is None else weights)
    merged = {}
    for name, start in base.items():
        deltas = np.stack([(model[name] - start).double().numpy().ravel() for model in models])
        if select < 1:
            deltas = deltas * _selected(deltas, sizes, select)
        energies = sizes * (deltas**2).mean(1)
        majority = np.where(sizes @ deltas >= 0, 1.0, -1.0)
        behind = energies[:, None] * (np.sign(deltas) == majority)
        total = behind.sum(0)
        change = (deltas * behind).sum(0) / np.where(total > 0, total, 1.0)
        merged[name] = start + from_numpy(change.reshape(start.shape))
    return merged


def _selected(deltas: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray:
    mean = np.average(deltas, axis=0, weights=sizes)
    variance = np.average((deltas - mean) ** 2, axis=0, weights=sizes)
    chosen = int(share * np.count_nonzero(variance))
    mask = np.zeros(variance.shape)
    mask[np.argsort(-variance)[:chosen]] = 1
    return mask
