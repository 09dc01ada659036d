from itertools import permutations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.merging.order_statistics import mean_of_ranks


@pytest.mark.parametrize("count", range(1, 9))
def test_every_pattern_of_zeros_and_ones_is_sorted(count: int) -> None:
    # A network that sorts all of them sorts anything (the zero-one principle).
    lanes = list(torch.tensor(list(product((0.0, 1.0), repeat=count))).T)
    for rank, expected in enumerate(torch.stack(lanes).sort(dim=0).values):
        assert torch.equal(mean_of_ranks(lanes, range(rank, rank + 1)), expected)


@pytest.mark.parametrize("count", range(1, 6))
def test_any_ranks_of_any_permutation(count: int) -> None:
    lanes = list(torch.tensor(list(permutations(range(count))), dtype=torch.float64).T)
    for start in range(count):
        for stop in range(start + 1, count + 1):
            found = mean_of_ranks(lanes, range(start, stop))
            assert set(found.tolist()) == {(start + stop - 1) / 2}


@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    data=st.data(),
)
def test_ranks_are_those_of_a_sort(
    count: int, seed: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few different values: many ties.
    lanes = list(torch.randint(-4, 5, (count, 3, 7), generator=generator).to(dtype))
    before = [lane.clone() for lane in lanes]
    rank = data.draw(st.integers(0, count - 1))
    found = mean_of_ranks(lanes, range(rank, rank + 1))
    assert torch.equal(found, torch.stack(lanes).sort(dim=0).values[rank])
    assert found.dtype == dtype
    found.zero_()
    assert all(torch.equal(a, b) for a, b in zip(lanes, before, strict=True))


@pytest.mark.parametrize("elements", [0, 1, 16_383, 16_384, 16_385, 40_000])
def test_blocks_longer_than_the_cache(elements: int) -> None:
    generator = torch.Generator().manual_seed(elements)
    lanes = list(torch.randn((5, elements), generator=generator))
    expected = torch.stack(lanes).sort(dim=0).values
    assert torch.equal(mean_of_ranks(lanes, range(2, 3)), expected[2])
    torch.testing.assert_close(mean_of_ranks(lanes, range(1, 4)), expected[1:4].mean(0))


def test_shapes_and_strides() -> None:
    whole = torch.randn((4, 6, 3), dtype=torch.float64)
    turned = [matrix.T for matrix in whole]
    found = mean_of_ranks(turned, range(1, 2))
    assert torch.equal(found, whole.sort(dim=0).values[1].T)
    scalar = [torch.tensor(value) for value in (3.0, 1.0, 2.0)]
    assert mean_of_ranks(scalar, range(1, 2)).shape == ()


def test_zeros_of_either_sign_are_zero() -> None:
    for zeros in ([-0.0], [-0.0, -0.0], [0.0, -0.0, -0.0]):
        lanes = [torch.full((9,), zero) for zero in zeros]
        assert not bool(mean_of_ranks(lanes, range(len(lanes))).signbit().any())
        assert not bool(mean_of_ranks(lanes, range(1)).signbit().any())
