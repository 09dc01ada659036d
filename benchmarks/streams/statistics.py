"""Means, backward transfer, and paired bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile interval of the mean over whole runs, drawn with replacement."""
    found = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(found), size=(DRAWS, len(found)))
    low, high = np.percentile(found[rows].mean(1), (2.5, 97.5))
    return Interval(float(found.mean()), float(low), float(high))


def nested_bootstrap(values: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """As `bootstrap` over (seeds, orders): seeds are drawn, then orders within each.

    Runs that share a seed share their experts and are not independent, so seeds are drawn
    first.
    """
    found = np.asarray(values, dtype=np.float64)
    seeds, orders = found.shape
    random = np.random.default_rng(seed)
    outer = random.integers(seeds, size=(DRAWS, seeds, 1))
    inner = random.integers(orders, size=(DRAWS, seeds, orders))
    low, high = np.percentile(found[outer, inner].mean((1, 2)), (2.5, 97.5))
    return Interval(float(found.mean()), float(low), float(high))


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over all tasks but the last of final less just-learned accuracy.

    Args:
        matrix: row t holds accuracies after contribution t on the tasks in their order;
            the diagonal and the last row are used.
    """
    last, count = matrix[-1], len(matrix)
    return sum(last[place] - matrix[place][place] for place in range(count - 1)) / (count - 1)
