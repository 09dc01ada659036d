"""RAM and RAM+: Yuan et al. 2026, arXiv:2601.13572; RAM+ over each tensor.

Entries beyond epsilon are changed. Changed by one: unique, kept whole (RAM+: times
1 + r clip(shared / unique, 0, alpha)); by several: shared, averaged with the weights.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, from_numpy

State = dict[str, Tensor]


def ram(
    base: State,
    models: Sequence[State],
    *,
    threshold: float = 1e-5,
    rate: float = 0.0,
    ceiling: float = 0.0,
    weights: Sequence[float] | None = None,
) -> State:
    sizes = np.array([1.0] * len(models) if weights is None else weights)
    merged = {}
    for name, start in base.items():
        deltas = np.stack([(model[name] - start).double().numpy() for model in models])
        flat = deltas.reshape(len(models), -1)
        changed = np.abs(flat) > threshold
        holders = changed.sum(0)
        result = np.zeros(flat.shape[1])
        for place in np.flatnonzero(holders > 1):
            mine = changed[:, place]
            result[place] = np.average(flat[mine, place], weights=sizes[mine])
        for own, entries in zip(changed, flat, strict=True):
            unique, shared = own & (holders == 1), own & (holders > 1)
            ratio = shared.sum() / max(unique.sum(), 1e-5)
            result[unique] = entries[unique] * (1 + rate * np.clip(ratio, 0, ceiling))
        merged[name] = start + from_numpy(result.reshape(start.shape))
    return merged
