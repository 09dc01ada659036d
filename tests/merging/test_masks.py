from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.references import emr as reference
from tests.references.consensus import tall_mask as reference_tall_mask
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import CannotMerge
from weft.merging.masks import (
    EmrSums,
    agreeing,
    emr_mask,
    emr_sums,
    packed,
    rescaler,
    restored,
    tall_mask,
    unpacked,
    wanted,
)
from weft.merging.method import Facts
from weft.merging.methods.emr import Emr

SHAPES = {"fc.weight": (5, 7), "fc.bias": (11,), "scale": ()}


def vector(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def some_deltas(seed: int, count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in SHAPES.items()
        }
        for _ in range(count)
    ]


def unified_by_us(deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    facts = [Facts(contribution=f"n{i}") for i in range(len(deltas))]
    return {
        name: merge_block(
            Emr(),
            Block(name=name, tensor_shape=shape, shape=shape),
            [delta[name] for delta in deltas],
            facts,
        )
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agreeing_by_hand(dtype: torch.dtype) -> None:
    delta = vector(1.0, -1.0, 1.0, -1.0, 0.0, 2.0, -0.0, dtype=dtype)
    unified = vector(3.0, -3.0, -3.0, 3.0, 1.0, 0.0, -1.0, dtype=dtype)
    marks = agreeing(delta, unified)
    assert marks.dtype == torch.uint8
    assert marks.tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_tiny_numbers_agree_too() -> None:
    tiny = vector(1e-30, -1e-30, dtype=torch.float32)
    assert agreeing(tiny, tiny).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wanted_by_hand(dtype: torch.dtype) -> None:
    # |d| against half of |s - d|: 1 and 1, 1 and 1.5, -1 and 1.5, 0 and 0, 0 and 0.5.
    delta = vector(1.0, 1.0, -1.0, 0.0, 0.0, dtype=dtype)
    total = vector(3.0, 4.0, 2.0, 0.0, 1.0, dtype=dtype)
    marks = wanted(delta, total, 0.5)
    assert marks.dtype == torch.uint8
    assert marks.tolist() == [1, 0, 0, 1, 0]


def test_inputs_are_kept() -> None:
    delta, merged = vector(1.0, -2.0, 0.5), vector(3.0, 1.0, -1.0)
    before = delta.clone(), merged.clone()
    wanted(delta, merged, 0.4)
    emr_sums(delta, merged)
    restored(merged, emr_mask(delta, merged), 0.5)
    assert torch.equal(delta, before[0])
    assert torch.equal(merged, before[1])


def test_eight_marks_a_byte_the_first_lowest() -> None:
    marks = torch.tensor([1, 0, 0, 0, 0, 1, 0, 0, 0, 1], dtype=torch.uint8)
    assert packed(marks).tolist() == [1 + 32, 2]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (8,), (9,), (3, 5), (2, 3, 4), (0, 4)], ids=str)
def test_packing_is_undone(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    marks = torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8)
    bits = packed(marks)
    assert bits.shape == (-(-marks.numel() // 8),)
    found = unpacked(bits, shape)
    assert (found.dtype, found.shape) == (torch.uint8, marks.shape)
    assert torch.equal(found, marks)


def test_masks_are_packed_marks() -> None:
    delta, merged = some_deltas(1, 2)
    name = "fc.weight"
    marks = unpacked(tall_mask(delta[name], merged[name], 0.4), (5, 7))
    assert torch.equal(marks, wanted(delta[name], merged[name], 0.4))
    marks = unpacked(emr_mask(delta[name], merged[name]), (5, 7))
    assert torch.equal(marks, agreeing(delta[name], merged[name]))


def test_sums_by_hand() -> None:
    found = emr_sums(vector(1.0, -2.0, 0.5), vector(3.0, 2.0, 1.0))
    assert found == EmrSums(own=3.5, unified=4.0)
    assert found + EmrSums(own=0.5, unified=4.0) == EmrSums(own=4.0, unified=8.0)


def test_the_rescaler_by_hand() -> None:
    sums = [EmrSums(own=3.0, unified=4.0), EmrSums(own=1.0, unified=4.0)]
    assert rescaler(sums) == 0.5
    assert rescaler(iter(sums)) == 0.5


def test_zero_task_vectors_need_no_rescaler() -> None:
    assert rescaler([EmrSums(own=0.0, unified=0.0)]) == 1.0
    assert rescaler([]) == 1.0


def test_what_the_vote_lost_altogether_is_refused() -> None:
    with pytest.raises(CannotMerge, match="no element of the task vector"):
        rescaler([emr_sums(vector(1.0, 2.0), vector(-3.0, -1.0))])


def test_sums_of_small_floats_are_taken_in_float64() -> None:
    many = torch.full((300_000,), 0.1, dtype=torch.float32)
    found = emr_sums(many, many)
    assert found.own == pytest.approx(300_000 * float(np.float32(0.1)), rel=1e-12)
    assert found.unified == found.own


def test_restored_by_hand() -> None:
    bits = packed(torch.tensor([1, 0, 1], dtype=torch.uint8))
    result = restored(vector(4.0, 3.0, -2.0, dtype=torch.float32), bits, 0.5)
    assert result.dtype == torch.float32
    assert result.tolist() == [2.0, 0.0, -1.0]
    assert restored(vector(4.0, 3.0, -2.0), bits).tolist() == [4.0, 0.0, -2.0]


def test_experts_as_the_reference_gives_them_back() -> None:
    deltas = some_deltas(2, 4)
    unified = unified_by_us(deltas)
    for delta in deltas:
        expected = reference.expert(delta, reference.unified(deltas))
        scale = rescaler(emr_sums(delta[name], unified[name]) for name in SHAPES)
        for name in SHAPES:
            bits = emr_mask(delta[name], unified[name])
            found = restored(unified[name], bits, scale)
            torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=0)


def test_an_expert_is_nearer_than_the_unified_vector() -> None:
    deltas = some_deltas(3, 4)
    unified = unified_by_us(deltas)
    name = "fc.weight"
    for delta in deltas:
        scale = rescaler([emr_sums(delta[name], unified[name])])
        found = restored(unified[name], emr_mask(delta[name], unified[name]), scale)
        assert (found - delta[name]).norm() < 0.8 * (unified[name] - delta[name]).norm()
        assert float(found.abs().sum()) == pytest.approx(float(delta[name].abs().sum()))


def test_disjoint_experts_come_back_from_the_sum_exactly() -> None:
    one, two = vector(1.0, 0.0, -2.0, 0.0), vector(0.0, 3.0, 0.0, 0.0)
    total = one + two
    for delta in (one, two):
        assert torch.equal(restored(total, tall_mask(delta, total, 0.4)), delta)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_tall_masks_as_the_reference(share: float) -> None:
    deltas = [delta["fc.weight"] for delta in some_deltas(4, 3)]
    total = torch.stack(deltas).sum(0)
    for delta in deltas:
        expected = reference_tall_mask(delta.numpy(), total.numpy(), share)
        assert wanted(delta, total, share).numpy().astype(bool).tolist() == expected.tolist()


@pytest.mark.parametrize("cut", [8, 16, 24])
def test_blocks_at_whole_bytes_are_parts_of_the_whole(cut: int) -> None:
    delta, unified = (each["fc.weight"].flatten() for each in some_deltas(5, 2))
    parts = [emr_mask(delta[part], unified[part]) for part in (slice(cut), slice(cut, None))]
    assert torch.equal(torch.cat(parts), emr_mask(delta, unified))
    sums = emr_sums(delta[:cut], unified[:cut]) + emr_sums(delta[cut:], unified[cut:])
    whole = emr_sums(delta, unified)
    assert (sums.own, sums.unified) == pytest.approx((whole.own, whole.unified), rel=1e-14)


@pytest.mark.parametrize("function", [wanted, tall_mask])
def test_shapes_must_fit_the_sum(function: Callable[..., object]) -> None:
    with pytest.raises(
        CannotMerge, match=r"shape \(2,\) does not fit a merged one of shape \(1,\)"
    ):
        function(vector(1.0, 2.0), vector(1.0), 0.4)


@pytest.mark.parametrize("function", [agreeing, emr_mask, emr_sums])
def test_shapes_must_fit_the_unified_vector(function: Callable[..., object]) -> None:
    with pytest.raises(CannotMerge, match=r"shape \(2,\) does not fit"):
        function(vector(1.0, 2.0), vector(1.0))


@pytest.mark.parametrize(
    "bits",
    [
        torch.zeros(2, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, 1, dtype=torch.uint8),
    ],
    ids=["more", "fewer", "not bytes", "not flat"],
)
def test_bits_of_another_block_are_refused(bits: Tensor) -> None:
    with pytest.raises(CannotMerge, match=r"expected torch.uint8 of shape \(1,\) for 3 elements"):
        restored(vector(1.0, 2.0, 3.0), bits)
