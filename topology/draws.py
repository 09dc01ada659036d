"""Chance without state: words of a counter-based generator, by (seed, round).

Any round's draws can be computed without those before it, and alike on every
machine: only Philox's raw words are used, whose stream numpy guarantees, and
arithmetic that IEEE 754 fixes; no distribution of numpy's, whose algorithm may
change, and no logarithm, whose last bit may.

>>> Source(seed=7, round=3, stream=Stream.SPARSE).words(2).dtype
dtype('uint64')

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
    Philox-4x64-10.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64
_GOLDEN = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """What the draws are for: two purposes never share a word."""

    GRAPH = 1
    MATCHING = 2
    SPARSE = 3
    COUNTS = 4
    PROBES = 5
    STARTS = 6
    LOSSES = 7
    ABSENCES = 8
    CLOCK = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place in the space of counters; `attempt` counts what is drawn anew there.

    Seeds count modulo 2^64.
    """

    seed: int
    round: int = 0
    stream: Stream

    def words(self, count: int, attempt: int = 0) -> NDArray[np.uint64]:
        """Raw words: (count,) uint64."""
        key = np.array([self.seed % _WORD, self.round % _WORD], dtype=np.uint64)
        counter = np.array([0, 0, attempt, self.stream], dtype=np.uint64)
        raw = np.random.Philox(key=key, counter=counter).random_raw(count)
        return np.asarray(raw, dtype=np.uint64)

    def fractions(self, count: int, attempt: int = 0) -> NDArray[np.float64]:
        """Uniform in [0, 1): (count,) float64, multiples of 2^-53."""
        return (self.words(count, attempt) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, limit: int, count: int, attempt: int = 0) -> NDArray[np.int64]:
        """Uniform in 0 .. limit - 1, with repetition: (count,) int64.

        The bias is limit / 2^64: nothing for the limits of graphs.
        """
        return (self.words(count, attempt) % np.uint64(limit)).astype(np.int64)

    def fractions_of(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """One fraction a key, whatever other keys are asked for: (keys,) float64 in [0, 1).

        So that what happens to an edge, or to a node, does not hang on how many there are.

        Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
            generators", the output function of SplitMix64, started from a word of this place.
        """
        mixed: NDArray[np.uint64]
        mixed = self.words(1) + (keys.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, count: int, attempt: int = 0) -> NDArray[np.int64]:
        """A random order of 0 .. count - 1: (count,) int64."""
        return np.argsort(self.words(count, attempt), kind="stable").astype(np.int64)

    def distinct(self, limit: int, count: int) -> NDArray[np.int64]:
        """`count` different numbers of 0 .. limit - 1, in random order: int64."""
        if limit <= 4 * count:
            return self.permutation(limit)[:count]
        found: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        attempt = 0
        while len(found) < count:
            drawn = np.concatenate([found, self.below(limit, 2 * count, attempt)])
            _, first = np.unique(drawn, return_index=True)
            found = drawn[np.sort(first)]
            attempt += 1
        return found[:count]
