"""WIDEN in numpy, from arXiv:2408.03092 section 4: disentangle each matrix into lengths
and directions of its columns, rank the changes, softmax over models, calibrate."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    t: float,
    s: float,
    transposed: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `transposed` are the tables of embeddings."""
    merged = {}
    for name, start in base.items():
        before = start.numpy()
        after = [model[name].numpy() for model in models]
        if name in transposed:
            before, after = before.T, [weights.T for weights in after]
        if before.ndim == 2:
            result = before + _matrix(after, before, t, s)
        else:
            moved = np.stack([np.abs(weights - before) for weights in after])
            scores = _scores(moved.reshape(len(after), -1), t, s).reshape(moved.shape)
            result = before + sum(
                (weights - before) * score for weights, score in zip(after, scores, strict=True)
            )
        merged[name] = torch.from_numpy(np.array(result.T if name in transposed else result))
    return merged


def _matrix(after: Sequence[np.ndarray], before: np.ndarray, t: float, s: float) -> np.ndarray:
    length = np.linalg.norm(before, axis=0)
    lengths, turns = [], []
    for weights in after:
        now = np.linalg.norm(weights, axis=0)
        lengths.append(_ranks(np.abs(now - length)))
        turns.append(_ranks(1 - np.sum(weights / now * (before / length), axis=0)))
    scores = (_scores(np.stack(lengths), t, s) + _scores(np.stack(turns), t, s)) / 2
    total = np.zeros_like(before)
    for weights, score in zip(after, scores, strict=True):
        total += (weights - before) * score
    return total


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < value).sum() for value in values]) / len(values)


def _scores(moved: np.ndarray, t: float, s: float) -> np.ndarray:
    scores = np.exp(moved) / np.exp(moved).sum(axis=0)
    # The middle one of an odd number of ranks is their mean, and not above it.
    scores[moved > t * moved.mean(axis=1, keepdims=True) + 1e-14] = s
    result: np.ndarray = scores
    return result
