import math
from itertools import accumulate, pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.statistics.moments import Moments, MomentSum, fold_moments


def moments_of(values: Tensor) -> Moments:
    """values: (samples, channels)."""
    values = values.double()
    var, mean = torch.var_mean(values, dim=0, correction=0)
    return Moments(count=torch.full_like(mean, values.shape[0]), mean=mean, var=var)


def by_hand(count: float, mean: float, var: float) -> Moments:
    tensors = (torch.tensor([value], dtype=torch.float64) for value in (count, mean, var))
    return Moments(**dict(zip(("count", "mean", "var"), tensors, strict=True)))


def test_by_hand() -> None:
    # {2} and {5, 6, 7}: mean 5, squares 9 + 0 + 1 + 4 = 14.
    total = fold_moments("bn", {"a": by_hand(1, 2, 0), "b": by_hand(3, 6, 2 / 3)})
    assert total.count.item() == 4
    assert total.mean.item() == pytest.approx(5.0, rel=1e-15)
    assert total.var.item() == pytest.approx(3.5, rel=1e-12)
    assert total.unbiased_var.item() == pytest.approx(14 / 3, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.floats(-100, 100),
    st.floats(0.01, 50),
)
def test_folding_parts_is_measuring_the_whole(
    seed: int, sizes: list[int], mean: float, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64) * spread + mean
    edges = [0, *accumulate(sizes)]
    parts = {str(a): moments_of(values[a:b]) for a, b in pairwise(edges)}
    total, whole = fold_moments("bn", parts), moments_of(values)
    scale = mean * mean + spread * spread
    assert torch.equal(total.count, whole.count)
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(total.var, whole.var, rtol=1e-12, atol=1e-12 * scale + 1e-11)


def test_the_variance_is_the_one_that_torch_keeps() -> None:
    torch.manual_seed(0)
    batch = torch.randn(64, 5, 4, 4) * 3 + 1
    layer = nn.BatchNorm2d(5, momentum=None)
    layer(batch)
    values = batch.transpose(0, 1).reshape(5, -1).T
    parts = {"a": moments_of(values[:100]), "b": moments_of(values[100:])}
    total = fold_moments("bn", parts)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    torch.testing.assert_close(total.mean.float(), layer.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total.unbiased_var.float(), layer.running_var, rtol=1e-5, atol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 6), st.randoms())
def test_order_grouping_and_removal_leave_no_trace(seed: int, count: int, random: Random) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [moments_of(torch.randn(9, 4, generator=generator) * 100) for _ in range(count)]
    shuffled = list(enumerate(parts))
    random.shuffle(shuffled)
    one, two, rest = (MomentSum("bn", 4) for _ in range(3))
    for index, part in enumerate(parts):
        one.add(part, str(index))
    for index, part in shuffled:
        (two if index % 2 else rest).add(part, str(index))
    two.combine(rest)
    assert same(one, two)
    extra = moments_of(torch.randn(5, 4, generator=generator))
    one.add(extra, "extra")
    assert not same(one, two)
    one.remove(extra, "extra")
    assert same(one, two)


def same(one: MomentSum, two: MomentSum) -> bool:
    left, right = one.to_tensors(), two.to_tensors()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_constant_channel_has_no_negative_variance() -> None:
    parts = {str(i): by_hand(7, 0.1 * 3, 0) for i in range(5)}
    total = fold_moments("bn", parts)
    assert 0 <= total.var.item() < 1e-12


def test_whole_data_sets_fit() -> None:
    huge = by_hand(1.3e6 * 112 * 112, 0.5, 4.0)
    total = fold_moments("conv1", {str(i): huge for i in range(64)})
    assert total.mean.item() == 0.5
    assert total.var.item() == pytest.approx(4.0, rel=1e-14)


def test_one_value_has_no_unbiased_variance_and_keeps_the_biased() -> None:
    assert fold_moments("bn", {"a": by_hand(1, 2, 0)}).unbiased_var.item() == 0.0


def test_contributions_of_nobody() -> None:
    with pytest.raises(CannotMerge, match="layer 'bn': nobody"):
        fold_moments("bn", {})
    with pytest.raises(CannotMerge, match="layer 'bn': a channel for which nobody"):
        fold_moments("bn", {"a": by_hand(0, 0, 0)})


def test_bad_contributions_are_named() -> None:
    with pytest.raises(NonFinite, match="b, layer 'bn': nan found"):
        fold_moments("bn", {"a": by_hand(1, 2, 0), "b": by_hand(1, math.nan, 0)})
    with pytest.raises(CannotMerge, match=r"b, layer 'bn': shape \(2, 2\)"):
        fold_moments("bn", {"a": by_hand(1, 2, 0), "b": moments_of(torch.randn(3, 2))})


def test_moments_are_checked_when_built() -> None:
    with pytest.raises(BadOption, match="negative count or variance"):
        by_hand(3, 1, -0.1)
    with pytest.raises(BadOption, match="negative count or variance"):
        by_hand(-3, 1, 0.1)
    with pytest.raises(BadOption, match=r"shapes \(1,\), \(2,\) and \(1,\)"):
        Moments(count=torch.ones(1), mean=torch.ones(2), var=torch.ones(1))
