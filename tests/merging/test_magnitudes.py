import math

import pytest
import torch
from torch import Tensor

from weft.merging.magnitudes import keep_above, keep_from, magnitudes

CUTS = [0.1, 1.0, 3.0, 1e-30, 2.0**-126, 1e-45, 3.4028234663852886e38, math.inf]


def around(cut: float, dtype: torch.dtype) -> Tensor:
    """Values at and next to a float32 number, and half-way to its neighbours."""
    number = torch.tensor(cut)
    below, above = (torch.nextafter(number, torch.tensor(to)) for to in (0.0, math.inf))
    values = torch.stack([number, below, above, torch.tensor(0.0), torch.tensor(math.inf)])
    values = values.to(dtype)
    if dtype == torch.float64:
        halves = torch.stack([(values[0] + values[1]) / 2, (values[0] + values[2]) / 2])
        nudged = [torch.nextafter(halves, torch.full_like(halves, to)) for to in (0.0, math.inf)]
        values = torch.cat([values, halves, *nudged])
    return torch.cat([values, -values])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", CUTS)
def test_cuts_are_compared_with_magnitudes(cut: float, dtype: torch.dtype) -> None:
    rounded = float(torch.tensor(cut))
    block = around(rounded, dtype)
    before = block.clone()
    none = torch.zeros_like(block)
    from_it = torch.where(magnitudes(block) >= rounded, block, none)
    above_it = torch.where(magnitudes(block) > rounded, block, none)
    assert torch.equal(keep_from(block, rounded), from_it)
    assert torch.equal(keep_above(block, rounded), above_it)
    assert torch.equal(block, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuts_at_the_ends(dtype: torch.dtype) -> None:
    block = torch.tensor([0.0, -1.0, 2.0], dtype=dtype)
    for cut in (-math.inf, 0.0):
        assert torch.equal(keep_from(block, cut), block)
        assert keep_from(block, cut).data_ptr() != block.data_ptr()
        assert torch.equal(keep_above(block, cut), block)
        assert keep_above(block, cut).data_ptr() != block.data_ptr()
    assert not keep_from(block, math.inf).any()
    assert not keep_above(block, math.inf).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [-math.inf, 0.0, 1.0, math.inf])
def test_a_nan_is_kept_for_others_to_refuse(cut: float, dtype: torch.dtype) -> None:
    block = torch.full((9,), math.nan, dtype=dtype)
    assert bool(keep_from(block, cut).isnan().all())
    assert bool(keep_above(block, cut).isnan().all())
