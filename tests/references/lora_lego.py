"""LoRA-LEGO in numpy, one unit at a time, from the description in arXiv:2409.16167:
units of rank one, k-means, the mean norm of a cluster's members, sqrt(r / k).

What that leaves open is as in ours: both halves of a unit equally long; units compared up
to sign, with the largest entry positive where that is open; the start at the longest unit
and then at the furthest. Units of a dense update are its singular triplets."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float],
    rank: int,
    rounds: int,
    averaged: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merged parameters; `averaged` are those that are no linear weights."""
    merged = {}
    for name, start in base.items():
        deltas = [(model[name].double() - start.double()).numpy() for model in models]
        if name in averaged:
            delta = np.average(deltas, axis=0, weights=weights)
        else:
            delta = _lego(deltas, weights, rank, rounds)
        merged[name] = start.double() + torch.from_numpy(delta)
    return merged


def _lego(
    deltas: Sequence[np.ndarray], weights: Sequence[float], rank: int, rounds: int
) -> np.ndarray:
    units, shares, counts = [], [], []
    for delta, weight in zip(deltas, weights, strict=True):
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
        used = int((s > 1e-7 * s[0]).sum())
        counts.append(used)
        for j in range(used):
            unit = np.concatenate([u[:, j], vt[j]]) * math.sqrt(s[j])
            units.append(unit * np.sign(unit[np.argmax(np.abs(unit))]))
            shares.append(weight)
    k = rank or max(counts)
    centres = [_centre(group) for group in _clusters(units, shares, k, rounds) if group]
    factor = math.sqrt(sum(counts) / len(counts) / len(centres))
    rows = deltas[0].shape[0]
    total = np.zeros_like(deltas[0])
    for centre in centres:
        total += factor * np.outer(centre[:rows], centre[rows:])
    return total


def _apart(one: np.ndarray, two: np.ndarray) -> float:
    """Squared distance, up to the sign of either."""
    return min(float(((one - two) ** 2).sum()), float(((one + two) ** 2).sum()))


def _clusters(
    units: list[np.ndarray], shares: list[float], k: int, rounds: int
) -> list[list[tuple[np.ndarray, float]]]:
    if len(units) <= k:
        return [[(unit, share)] for unit, share in zip(units, shares, strict=True)]
    centres = [max(units, key=np.linalg.norm)]
    while len(centres) < k:
        centres.append(max(units, key=lambda unit: min(_apart(unit, c) for c in centres)))
    groups = _assign(units, shares, centres)
    for _ in range(rounds):
        centres = [
            _mean(group) if group else centre for group, centre in zip(groups, centres, strict=True)
        ]
        groups = _assign(units, shares, centres)
    return groups


def _assign(
    units: list[np.ndarray], shares: list[float], centres: list[np.ndarray]
) -> list[list[tuple[np.ndarray, float]]]:
    groups: list[list[tuple[np.ndarray, float]]] = [[] for _ in centres]
    for unit, share in zip(units, shares, strict=True):
        label = min(range(len(centres)), key=lambda c: _apart(unit, centres[c]))
        lengths = np.linalg.norm(unit) * np.linalg.norm(centres[label])
        turned = -unit if float(unit @ centres[label]) < -1e-6 * lengths else unit
        groups[label].append((turned, share))
    return groups


def _mean(group: list[tuple[np.ndarray, float]]) -> np.ndarray:
    mean: np.ndarray = np.average(
        [unit for unit, _ in group], axis=0, weights=[w for _, w in group]
    )
    return mean


def _centre(group: list[tuple[np.ndarray, float]]) -> np.ndarray:
    norms = [float(np.linalg.norm(unit)) for unit, _ in group]
    mean = _mean(group)
    wanted = float(np.average(norms, weights=[share for _, share in group]))
    scaled: np.ndarray = mean * (wanted / float(np.linalg.norm(mean)))
    return scaled
