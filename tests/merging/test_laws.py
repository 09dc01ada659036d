"""What every registered method that merges keeps, the shipped ones and the sketches."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.merging.sketches import REGISTRY
from tests.merging.whole import facts_of
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import NonFinite
from weft.merging.folding import FoldState
from weft.merging.method import (
    Calibration,
    Combination,
    Facts,
    Fold,
    Joint,
    Method,
    Scope,
    Sequential,
    Transform,
)
from weft.merging.precision import Precision
from weft.merging.registry import Kind

KINDS = {
    Kind.FOLD: Fold,
    Kind.SEQUENTIAL: Sequential,
    Kind.JOINT: Joint,
    Kind.TRANSFORM: Transform,
    Kind.COMBINATION: Combination,
    Kind.CALIBRATION: Calibration,
}


def is_order_free(method: Method) -> bool:
    return isinstance(method, Fold) or (
        isinstance(method, Joint | Combination) and not method.ordered
    )


def is_removable(method: Method) -> bool:
    if not isinstance(method, Fold):
        return False
    return all(field.removable for field in method.fields("w", (4, 3)).values())


NAMES = REGISTRY.names()
MERGES = [
    name for name in NAMES if REGISTRY.entry(name).kind not in (Kind.TRANSFORM, Kind.CALIBRATION)
]
FOLDS = [name for name in NAMES if REGISTRY.entry(name).kind is Kind.FOLD]
ORDER_FREE = [name for name in MERGES if is_order_free(REGISTRY.create(name))]
REMOVABLE = [name for name in FOLDS if is_removable(REGISTRY.create(name))]
CHECKING = [
    name
    for name in MERGES
    if REGISTRY.entry(name).kind in (Kind.JOINT, Kind.COMBINATION)
    and not name.startswith("sketch_")
]
STREAMED = [
    name
    for name in MERGES
    if REGISTRY.entry(name).kind is not Kind.COMBINATION
    and REGISTRY.create(name).scope("w", (9,)) is Scope.ELEMENT
]
PROPORTIONAL = [name for name in MERGES if REGISTRY.create(name).proportional]
GIVE_BACK = [name for name in MERGES if REGISTRY.create(name).gives_back_one]
SHAPES = [(7,), (5, 4), (3, 6), (2, 3, 2), ()]
UNIT = 2.0**-39

laws = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 2**31)


def task_vectors(seed: int, count: int, shape: Sequence[int], scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * scale
        for _ in range(count)
    ]


def some(method: Method, count: int) -> int:
    """So many contributions, or as many as it takes."""
    return count if method.most is None else min(count, method.most)


def merged(
    method: Method, deltas: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None = None
) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape, base=base)
    return merge_block(method, block, deltas, facts)


def same_bytes(one: Tensor, two: Tensor) -> bool:
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    flat = (one.contiguous().reshape(-1), two.contiguous().reshape(-1))
    return torch.equal(flat[0].view(torch.uint8), flat[1].view(torch.uint8))


def same_state(one: FoldState, two: FoldState) -> bool:
    left, right = one.to_tensors(), two.to_tensors()
    return left.keys() == right.keys() and all(same_bytes(left[k], right[k]) for k in left)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_names_the_kind(name: str) -> None:
    assert isinstance(REGISTRY.create(name), KINDS[REGISTRY.entry(name).kind])


@pytest.mark.parametrize("name", GIVE_BACK)
@pytest.mark.parametrize("weight", [1.0, 0.3, 7.0, 1e-6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_is_given_back_where_said_so(name: str, weight: float, shape: tuple[int, ...]) -> None:
    method = REGISTRY.create(name)
    theta = task_vectors(1, 1, shape)[0].to(torch.float32)
    deltas = [theta.to(torch.float64)]
    result = merged(method, deltas, in_proportion(method, facts_of(deltas, [weight], method)))
    assert float((result - deltas[0]).abs().max()) <= UNIT
    assert same_bytes(result.to(torch.float32), theta)


@pytest.mark.parametrize("name", sorted(set(MERGES) - set(GIVE_BACK)))
def test_who_does_not_say_so_does_not_give_one_back(name: str) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(1, 1, (3, 6))
    result = merged(method, deltas, facts_of(deltas, [0.3], method))
    assert float((result - deltas[0]).abs().max()) > 1e-3


def test_no_list_is_empty() -> None:
    assert all((ORDER_FREE, REMOVABLE, STREAMED, PROPORTIONAL, GIVE_BACK, FOLDS))
    assert {"mean", "task_arithmetic", "magmax"} <= set(ORDER_FREE)
    assert {"mean", "task_arithmetic"} <= set(REMOVABLE)
    assert {"mean", "task_arithmetic", "magmax", "ema"} <= set(STREAMED)


@pytest.mark.parametrize("name", ORDER_FREE)
@laws
@given(data=st.data(), seed=seeds, count=st.integers(2, 6), shape=st.sampled_from(SHAPES))
def test_any_order_gives_the_same_bytes(
    name: str, data: st.DataObject, seed: int, count: int, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(seed, count, shape)
    weights = data.draw(st.lists(st.floats(0.01, 3.0), min_size=count, max_size=count))
    facts = facts_of(deltas, weights, method)
    order = data.draw(st.permutations(range(count)))
    one = merged(method, deltas, facts)
    two = merged(method, [deltas[i] for i in order], [facts[i] for i in order])
    assert same_bytes(one, two)


@pytest.mark.parametrize("name", FOLDS)
@laws
@given(data=st.data(), seed=seeds, count=st.integers(1, 5))
def test_any_grouping_gives_the_same_state(
    name: str, data: st.DataObject, seed: int, count: int
) -> None:
    method = REGISTRY.create(name)
    assert isinstance(method, Fold)
    deltas = task_vectors(seed, count, (4, 3))
    facts = facts_of(deltas, None, method)
    cut = data.draw(st.integers(0, count))
    halves = [FoldState.zero(method, "w", (4, 3)) for _ in range(2)]
    whole = FoldState.zero(method, "w", (4, 3))
    for index, (delta, fact) in enumerate(zip(deltas, facts, strict=True)):
        whole.add(delta, fact)
        halves[index >= cut].add(delta, fact)
    halves[1].combine(halves[0])
    assert same_state(whole, halves[1])


@pytest.mark.parametrize("name", REMOVABLE)
@laws
@given(seed=seeds, count=st.integers(1, 5), data=st.data())
def test_removal_gives_the_bytes_back_where_all_fields_can(
    name: str, data: st.DataObject, seed: int, count: int
) -> None:
    method = REGISTRY.create(name)
    assert isinstance(method, Fold)
    deltas = task_vectors(seed, count, (4, 3))
    weights = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    facts = facts_of(deltas, weights, method)
    leaving = data.draw(st.integers(0, count - 1))
    state, without = (FoldState.zero(method, "w", (4, 3)) for _ in range(2))
    for index, (delta, fact) in enumerate(zip(deltas, facts, strict=True)):
        state.add(delta, fact)
        if index != leaving:
            without.add(delta, fact)
    state.remove(deltas[leaving], facts[leaving])
    assert same_state(state, without)


@pytest.mark.parametrize("name", STREAMED)
@laws
@given(data=st.data(), seed=seeds, elements=st.integers(2, 150))
def test_streamed_is_whole(name: str, data: st.DataObject, seed: int, elements: int) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(seed, 3, (elements,))
    facts = facts_of(deltas, [0.5, 1.0, 0.7], method)
    cuts = sorted(data.draw(st.sets(st.integers(1, elements - 1), max_size=4)))
    edges = [0, *cuts, elements]
    parts = [
        merge_block(
            method,
            Block(name="fc.weight", tensor_shape=(elements,), shape=(stop - start,)),
            [delta[start:stop] for delta in deltas],
            facts,
        )
        for start, stop in pairwise(edges)
    ]
    assert same_bytes(torch.cat(parts), merged(method, deltas, facts))


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_are_finite_float64_of_the_shape_and_inputs_are_kept(
    name: str, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(3, some(method, 3), shape)
    base = task_vectors(4, 1, shape)[0]
    before = [delta.clone() for delta in [*deltas, base]]
    result = merged(method, deltas, facts_of(deltas, None, method), base)
    assert result.dtype == torch.float64
    assert result.shape == shape
    assert bool(result.isfinite().all())
    assert all(same_bytes(a, b) for a, b in zip(before, [*deltas, base], strict=True))
    result.zero_()
    assert all(same_bytes(a, b) for a, b in zip(before, [*deltas, base], strict=True))


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_zero_task_vector_leaves_the_base_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    method = REGISTRY.create(name)
    base = task_vectors(5, 1, (4, 3))[0].to(dtype)
    deltas = [base.to(torch.float64) - base.to(torch.float64)] * some(method, 3)
    result = merged(method, deltas, facts_of(deltas, None, method), base.to(torch.float64))
    out = (base.to(torch.float64) + result).to(dtype)
    assert same_bytes(out, base)


@pytest.mark.parametrize("name", MERGES)
def test_weight_zero_is_not_there(name: str) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(6, 3, (4, 3))
    deltas[1].fill_(torch.nan)
    facts = facts_of(deltas, [1.0, 0.0, 0.5], method)
    with_it = merged(method, deltas, facts)
    without = merged(method, [deltas[0], deltas[2]], [facts[0], facts[2]])
    assert same_bytes(with_it, without)


@pytest.mark.parametrize("name", CHECKING)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(7,), (4, 3)], ids=str)
def test_what_is_not_finite_is_refused_by_name(
    name: str, value: float, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(6, some(method, 3), shape)
    deltas[1][-1] = value
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': .* expected finite numbers"):
        merged(method, deltas, facts_of(deltas, None, method))


@pytest.mark.parametrize("name", PROPORTIONAL)
@pytest.mark.parametrize("factor", [3.0, 2.0**20, 2.0**-20])
def test_only_proportions_matter_where_said_so(name: str, factor: float) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(7, some(method, 4), (5,))
    facts = facts_of(deltas, [0.1, 0.2, 0.3, 0.4][: len(deltas)], method)
    scaled = [replace(fact, weight=fact.weight * factor) for fact in facts]
    one = merged(method, deltas, in_proportion(method, facts))
    two = merged(method, deltas, in_proportion(method, scaled))
    torch.testing.assert_close(one, two, rtol=0, atol=8 * UNIT)


@pytest.mark.parametrize("name", FOLDS)
def test_a_state_survives_being_stored(name: str) -> None:
    method = REGISTRY.create(name)
    assert isinstance(method, Fold)
    deltas = task_vectors(8, 3, (4, 3))
    facts = facts_of(deltas, [1.0, -0.5, 0.25], method)
    state, straight = (FoldState.zero(method, "w", (4, 3)) for _ in range(2))
    for delta, fact in zip(deltas[:2], facts[:2], strict=True):
        state.add(delta, fact)
        straight.add(delta, fact)
    stored = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
    again = FoldState.from_tensors(method, "w", (4, 3), stored)
    again.add(deltas[2], facts[2])
    straight.add(deltas[2], facts[2])
    assert same_state(again, straight)
    assert not same_state(again, state)


@pytest.mark.parametrize("name", FOLDS)
def test_the_state_is_as_large_as_said(name: str) -> None:
    method = REGISTRY.create(name)
    assert isinstance(method, Fold)
    stored = 0
    for phase in range(method.phases):
        tensors = FoldState.zero(method, "w", (40, 30), phase=phase).to_tensors()
        fields = method.fields("w", (40, 30), phase)
        stored += sum(tensors[field].nbytes for field in fields)
    assert method.state_bytes("w", (40, 30)) == stored


@pytest.mark.parametrize("name", FOLDS)
def test_a_refused_contribution_leaves_no_trace(name: str) -> None:
    method = REGISTRY.create(name)
    assert isinstance(method, Fold)
    deltas = task_vectors(9, 2, (4, 3))
    facts = facts_of(deltas, None, method)
    state, clean = (FoldState.zero(method, "w", (4, 3)) for _ in range(2))
    for fold in (state, clean):
        fold.add(deltas[0], facts[0])
    spoiled = deltas[1].clone()
    spoiled[2, 1] = torch.inf
    with pytest.raises(Exception, match=r"node-1, tensor 'w': .* expected finite numbers"):
        state.add(spoiled, facts[1])
    assert same_state(state, clean)


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("precision", [Precision.FLOAT64, Precision.FLOAT32])
@pytest.mark.parametrize("shape", [(9,), (5, 4)], ids=str)
def test_fast_sums_are_near_the_exact_ones(
    name: str, precision: Precision, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    deltas = [delta.to(precision.dtype) for delta in task_vectors(11, some(method, 4), shape)]
    facts = facts_of(deltas, None, method)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape, precision=precision)
    fast = merge_block(method, block, deltas, facts)
    exact = merged(method, [delta.double() for delta in deltas], facts)
    assert (fast.dtype, fast.shape) == (precision.dtype, exact.shape)
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)
