"""TALL masks and consensus: Wang et al. 2024, arXiv:2405.07813, section 4.

m_t = [|theta_t - theta_0| >= lambda |theta_t - theta_0 - tau|], tau the sum of the task
vectors; kept where at least k masks are set.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, from_numpy

State = dict[str, Tensor]


def consensus(
    base: State,
    models: Sequence[State],
    *,
    share: float = 0.4,
    models_wanted: int = 2,
    scale: float = 0.4,
    weights: Sequence[float] | None = None,
) -> State:
    weights = [1.0] * len(models) if weights is None else weights
    merged = {}
    for name, start in base.items():
        deltas = [
            w * (model[name] - start).double().numpy()
            for w, model in zip(weights, models, strict=True)
        ]
        total = np.sum(deltas, axis=0)
        count = sum(tall_mask(delta, total, share).astype(int) for delta in deltas)
        merged[name] = start + from_numpy(np.asarray(scale * total * (count >= models_wanted)))
    return merged


def tall_mask(delta: np.ndarray, total: np.ndarray, share: float) -> np.ndarray:
    return np.asarray(np.abs(delta) >= share * np.abs(delta - total))
