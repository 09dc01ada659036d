"""Ranks from two passes are those of sorting, to the last bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from weft.merging.statistics.magnitude_histogram import (
    BINS,
    LOW_BITS,
    MagnitudeHistogram,
    order_statistics,
)

MAGNITUDES = st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60)


def ranked(blocks: list[Tensor], ranks: list[int]) -> list[float]:
    coarse = MagnitudeHistogram()
    for block in blocks:
        coarse.add(block)
    fine = coarse.refine(ranks)
    for block in blocks:
        fine.add(block)
    return fine.values()


def test_by_hand() -> None:
    values = torch.tensor([0.5, 2.0, 1.0, 4.0, 1.0])
    assert ranked([values], [1, 2, 3, 4, 5]) == [0.5, 1.0, 1.0, 2.0, 4.0]
    assert ranked([values], [0, -3, 6]) == [-math.inf, -math.inf, math.inf]


def test_bins_are_the_upper_bits() -> None:
    histogram = MagnitudeHistogram()
    histogram.add(torch.tensor([0.0, 1.0, 1.0000001]))
    counts = histogram.counts
    assert counts.shape == (BINS,)
    assert (counts[0], counts[0x3F800000 >> LOW_BITS], histogram.elements) == (1, 2, 3)
    counts[:] = 7
    assert histogram.elements == 3


@given(values=MAGNITUDES, data=st.data())
def test_sorting_is_the_reference(values: list[float], data: st.DataObject) -> None:
    ordered = sorted(values)
    ranks = data.draw(st.lists(st.integers(1, len(values)), min_size=1, max_size=5))
    expected = [ordered[rank - 1] for rank in ranks]
    assert ranked([torch.tensor(values)], ranks) == expected
    assert order_statistics(torch.tensor(values), ranks) == expected


@given(values=MAGNITUDES, cut=st.integers(0, 60))
def test_blocks_and_threads_may_be_put_together(values: list[float], cut: int) -> None:
    whole = torch.tensor(values)
    parts = [whole[cut:], whole[:cut]]
    ranks = [1, len(values) // 2 + 1, len(values)]
    assert ranked(parts, ranks) == ranked([whole], ranks)
    coarse, other = MagnitudeHistogram(), MagnitudeHistogram()
    coarse.add(parts[0])
    other.add(parts[1])
    coarse.combine(other)
    fine = coarse.refine(ranks)
    copy = fine.empty_copy()
    fine.add(parts[0])
    copy.add(parts[1])
    fine.combine(copy)
    assert fine.values() == ranked([whole], ranks)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-44])
def test_many_values(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    values = (torch.randn(200_000, generator=generator) * scale).abs()
    ordered = values.sort().values
    ranks = [1, 1000, 100_000, 199_999, 200_000]
    assert ranked([values[i : i + 30_000] for i in range(0, 200_000, 30_000)], ranks) == [
        float(ordered[r - 1]) for r in ranks
    ]


def test_nothing_counted() -> None:
    assert ranked([torch.empty(0)], [0, 1]) == [-math.inf, math.inf]
