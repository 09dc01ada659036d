"""Exact order statistics of magnitudes, from two passes and a megabyte.

Float32 values that are not negative are ordered like their bit patterns. The first pass
counts the upper 16 of their 31 bits; that says in which bin the value of a rank lies.
The second counts the lower 15 bits of what lies in that bin; that says which value it is.
Counts add, so blocks may come in any order and from any number of threads.

>>> values = torch.tensor([0.5, 2.0, 1.0, 4.0])
>>> coarse = MagnitudeHistogram()
>>> coarse.add(values)
>>> fine = coarse.refine([2])
>>> fine.add(values)
>>> fine.values()
[1.0]
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LOW_BITS: Final = 15
BINS: Final = 2**16
FINE_BINS: Final = 2**LOW_BITS

Counts = npt.NDArray[np.int64]


class MagnitudeHistogram:
    """First pass: how many magnitudes share their upper 16 bits."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(BINS, dtype=np.int64)

    @property
    def elements(self) -> int:
        """How many magnitudes were counted."""
        return int(self._counts.sum())

    @property
    def counts(self) -> Counts:
        """(65536,), int64; a copy."""
        return self._counts.copy()

    def add(self, magnitudes: Tensor) -> None:
        """Count magnitudes: float32, contiguous, none negative, NaN or infinite."""
        high = magnitudes.cpu().view(torch.int32).numpy().reshape(-1) >> LOW_BITS
        self._counts += np.bincount(high, minlength=BINS)

    def combine(self, other: "MagnitudeHistogram") -> None:
        """Count all that another one counted."""
        self._counts += other._counts

    def refine(self, ranks: Sequence[int]) -> "FineHistogram":
        """The second pass that finds the values of some ranks.

        Args:
            ranks: counted from 1, the smallest magnitude; any integers.
        """
        ends = np.cumsum(self._counts)
        places: list[tuple[int, int] | None] = []
        for rank in ranks:
            if not 1 <= rank <= int(ends[-1]):
                places.append(None)
                continue
            index = int(np.searchsorted(ends, rank))
            places.append((index, rank - int(ends[index] - self._counts[index])))
        return FineHistogram(ranks, places)


class FineHistogram:
    """Second pass: the lower 15 bits of what lies in the bins of interest."""

    def __init__(self, ranks: Sequence[int], places: Sequence[tuple[int, int] | None]) -> None:
        self._ranks = tuple(ranks)
        self._places = tuple(places)
        bins = sorted({place[0] for place in places if place is not None})
        self._counts = {index: np.zeros(FINE_BINS, dtype=np.int64) for index in bins}

    def add(self, magnitudes: Tensor) -> None:
        """Count the same magnitudes as in the first pass."""
        bits = magnitudes.cpu().view(torch.int32).numpy().reshape(-1)
        for index, counts in self._counts.items():
            # One comparison: below the bin the difference wraps to a huge number.
            low = (bits - np.int32(index << LOW_BITS)).view(np.uint32)
            inside = low[low < FINE_BINS].astype(np.int64)
            counts += np.bincount(inside, minlength=FINE_BINS)

    def empty_copy(self) -> "FineHistogram":
        """The same question with nothing counted yet, for another thread."""
        return FineHistogram(self._ranks, self._places)

    def combine(self, other: "FineHistogram") -> None:
        """Count all that another one counted."""
        for index, counts in self._counts.items():
            counts += other._counts[index]

    def values(self) -> list[float]:
        """The magnitude of each rank; minus infinity below 1, infinity beyond the last."""
        found = []
        for rank, place in zip(self._ranks, self._places, strict=True):
            if place is None:
                found.append(-np.inf if rank < 1 else np.inf)
                continue
            index, within = place
            low = int(np.searchsorted(np.cumsum(self._counts[index]), within))
            bits = np.array([(index << LOW_BITS) | low], dtype=np.int32)
            found.append(float(bits.view(np.float32)[0]))
        return found


def order_statistics(values: Tensor, ranks: Sequence[int]) -> list[float]:
    """The magnitudes of some ranks of a tensor that is at hand whole.

    Args:
        values: float32, none NaN; not modified.
        ranks: as in `MagnitudeHistogram.refine`.
    """
    ordered = np.sort(values.abs().cpu().numpy().reshape(-1))
    ends = {True: -np.inf, False: np.inf}
    return [
        float(ordered[rank - 1]) if 1 <= rank <= len(ordered) else ends[rank < 1] for rank in ranks
    ]
