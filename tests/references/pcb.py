"""PCB-Merging in numpy, from arXiv:2410.02396 section 3 and the published description of
its quantiles, with the tensor in place of the whole model.

For m elements: the floor(m / 10^4) smallest and the ceil(m / 10^4) largest magnitudes are
clamped (none if m < 10^4); the quantile of the scores is the value of rank int(m (1 - r)).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    ratio: float,
    scale: float,
) -> dict[str, Tensor]:
    """Merged parameters, for tensors where no range is empty."""
    merged = {}
    for name, start in base.items():
        deltas = np.stack([(model[name] - start).numpy().reshape(-1) for model in models])
        total = deltas.sum(axis=0)
        above, below = np.zeros(deltas.shape[1]), np.zeros(deltas.shape[1])
        for delta, weight in zip(deltas, weights, strict=True):
            magnitudes = _clamped(np.abs(delta))
            intra = np.exp(len(models) * _range(magnitudes) ** 2)
            score = intra * np.tanh(delta * total)
            rank = min(int(len(score) * (1 - ratio)), len(score) - 2)
            score = _range(np.maximum(score, np.sort(score)[rank]))
            above += weight * score * np.sign(delta) * magnitudes
            below += score
        result = scale * above / np.maximum(below, 1e-12)
        merged[name] = start + torch.from_numpy(result).reshape(start.shape)
    return merged


def _clamped(magnitudes: np.ndarray) -> np.ndarray:
    count = len(magnitudes)
    if count < 10_000:
        return magnitudes
    ranked = np.sort(magnitudes)
    ends = ranked[count // 10_000], ranked[count - 1 - math.ceil(count / 10_000)]
    clamped: np.ndarray = np.clip(magnitudes, *ends)
    return clamped


def _range(values: np.ndarray) -> np.ndarray:
    ends = values.min(), values.max()
    result: np.ndarray = (values - ends[0]) / (ends[1] - ends[0])
    return result
