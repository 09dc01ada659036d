"""What every registered transform and calibration keeps, the shipped ones and the sketches."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.merging.sketches import REGISTRY
from tests.merging.test_laws import NAMES, SHAPES, laws, same_bytes, seeds, task_vectors
from tests.merging.whole import facts_of
from weft.merging.method import Calibration, Facts, Method, Need, Scope, Transform
from weft.merging.registry import Kind

TRANSFORMS = [name for name in NAMES if REGISTRY.entry(name).kind is Kind.TRANSFORM]
CALIBRATIONS = [name for name in NAMES if REGISTRY.entry(name).kind is Kind.CALIBRATION]
DRAWING = [name for name in TRANSFORMS if Need.KEY in REGISTRY.create(name).needs]


def test_no_list_is_empty() -> None:
    assert all((TRANSFORMS, DRAWING, CALIBRATIONS))


def calibrated(
    method: Method, whole: Tensor, deltas: Sequence[Tensor], facts: Sequence[Facts]
) -> Tensor:
    """As a caller does it: who has a weight, sorted by name."""
    assert isinstance(method, Calibration)
    pairs = [pair for pair in zip(facts, deltas, strict=True) if pair[0].weight != 0]
    pairs.sort(key=lambda pair: pair[0].contribution)
    return method.calibrate(
        "fc.weight", whole, [delta for _, delta in pairs], [fact for fact, _ in pairs]
    )


def seen(method: Transform, delta: Tensor) -> Tensor:
    """A whole tensor in the shape in which the transform sees it."""
    scope = method.scope("w", tuple(delta.shape))
    if scope is Scope.MATRIX:
        return delta
    if scope is Scope.ELEMENT:
        return delta.reshape(-1)
    return delta.flatten(1) if delta.ndim > 1 else delta.reshape(1, -1)


def transform(name: str) -> Transform:
    method = REGISTRY.create(name)
    assert isinstance(method, Transform)
    return method


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (0,), (0, 3)], ids=str)
def test_a_transform_keeps_shape_and_input(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    method = transform(name)
    delta = seen(method, task_vectors(10, 1, shape, scale=100.0)[0]).to(dtype)
    before = delta.clone()
    result = method.apply("w", delta, facts_of([delta], None, method)[0])
    assert (result.dtype, result.shape) == (dtype, delta.shape)
    assert bool(result.isfinite().all())
    assert same_bytes(before, delta)
    result.fill_(7.0)
    assert same_bytes(before, delta)


@pytest.mark.parametrize("name", TRANSFORMS)
@laws
@given(data=st.data(), seed=seeds, shape=st.sampled_from([(150,), (30, 5), (6, 5, 4), (1, 9)]))
def test_a_transform_of_blocks_is_that_of_the_whole(
    name: str, data: st.DataObject, seed: int, shape: tuple[int, ...]
) -> None:
    method = transform(name)
    delta = seen(method, task_vectors(seed, 1, shape)[0])
    fact = facts_of([delta], None, method)[0]
    whole = method.apply("w", delta, fact)
    assert same_bytes(whole, method.apply("w", delta, fact))
    if method.scope("w", shape) is Scope.MATRIX:
        return
    cuts = sorted(data.draw(st.sets(st.integers(0, len(delta)), max_size=4)))
    unit = delta.shape[1] if delta.ndim > 1 else 1
    parts = [
        method.apply("w", delta[start:stop], replace(fact, offset=start * unit))
        for start, stop in pairwise([0, *cuts, len(delta)])
    ]
    assert same_bytes(torch.cat(parts), whole)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(9,), (5, 4)], ids=str)
def test_a_transform_in_float32_is_near_the_exact_one(name: str, shape: tuple[int, ...]) -> None:
    method = transform(name)
    delta = seen(method, task_vectors(12, 1, shape)[0].to(torch.float32))
    fact = facts_of([delta], None, method)[0]
    exact = method.apply("w", delta.double(), fact)
    torch.testing.assert_close(method.apply("w", delta, fact).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_nothing_is_nothing(name: str) -> None:
    method = transform(name)
    delta = seen(method, torch.zeros(4, 3, dtype=torch.float64))
    assert not method.apply("w", delta, facts_of([delta], None, method)[0]).any()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_transform_does_not_hide_what_is_not_a_number(
    name: str, dtype: torch.dtype, value: float
) -> None:
    method = transform(name)
    delta = seen(method, task_vectors(13, 1, (4, 40))[0]).to(dtype)
    facts = facts_of([delta], None, method)[0]
    for place in range(0, delta.numel(), 7):
        spoiled = delta.clone()
        spoiled.view(-1)[place] = value
        assert not method.apply("w", spoiled, facts).view(-1)[place].isfinite()


@pytest.mark.parametrize("name", DRAWING)
def test_draws_leave_the_expectation_as_it_is(name: str) -> None:
    method = transform(name)
    delta = seen(method, task_vectors(14, 1, (5, 40))[0])
    fact = facts_of([delta], None, method)[0]
    keys = [f"key {index}".encode() for index in range(400)]
    ratios = torch.stack([method.apply("w", delta, replace(fact, key=key)) for key in keys]) / delta
    # Six standard errors, with the scatter that is found.
    assert abs(float(ratios.mean()) - 1) <= 6 * float(ratios.std()) / ratios.numel() ** 0.5
    deviations = (ratios.mean(0) - 1).abs() / ratios.std(0)
    assert float(deviations.max()) <= 6 / len(keys) ** 0.5
    assert 0.2 < float((ratios == 0).double().mean()) < 0.8


@pytest.mark.parametrize("name", DRAWING)
def test_draws_go_by_key_name_and_place(name: str) -> None:
    method = transform(name)
    delta = seen(method, task_vectors(15, 1, (5, 40))[0])
    fact = facts_of([delta], None, method)[0]
    here = method.apply("w", delta, fact)
    assert not torch.equal(here, method.apply("w", delta, replace(fact, key=b"another")))
    assert not torch.equal(here, method.apply("v", delta, fact))
    assert not torch.equal(here, method.apply("w", delta, replace(fact, offset=200)))
    assert torch.equal(here, method.apply("w", delta, replace(fact, contribution="b", weight=2.0)))


@pytest.mark.parametrize("name", CALIBRATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_calibration_keeps_shape_dtype_and_inputs(
    name: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    inputs = [delta.to(dtype) for delta in task_vectors(12, 4, shape)]
    before = [delta.clone() for delta in inputs]
    whole, *deltas = inputs
    result = calibrated(method, whole, deltas, facts_of(deltas, [1.0, 0.5, 2.0], method))
    assert (result.dtype, result.shape) == (dtype, whole.shape)
    assert bool(result.isfinite().all())
    assert all(same_bytes(a, b) for a, b in zip(before, inputs, strict=True))
    result.zero_()
    assert all(same_bytes(a, b) for a, b in zip(before, inputs, strict=True))


@pytest.mark.parametrize("name", CALIBRATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_calibrated_nothing_is_nothing(name: str, shape: tuple[int, ...]) -> None:
    method = REGISTRY.create(name)
    deltas = task_vectors(13, 3, shape)
    nothing = torch.zeros_like(deltas[0])
    facts = facts_of(deltas, None, method)
    assert same_bytes(calibrated(method, nothing, deltas, facts), nothing)
    idle = [nothing] * 3
    assert same_bytes(calibrated(method, nothing, idle, facts_of(idle, None, method)), nothing)


@pytest.mark.parametrize("name", CALIBRATIONS)
@laws
@given(data=st.data(), seed=seeds, count=st.integers(2, 6), shape=st.sampled_from(SHAPES))
def test_any_order_calibrates_to_the_same_bytes(
    name: str, data: st.DataObject, seed: int, count: int, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    whole, *deltas = task_vectors(seed, count + 1, shape)
    weights = data.draw(st.lists(st.floats(0.01, 3.0), min_size=count, max_size=count))
    facts = facts_of(deltas, weights, method)
    order = data.draw(st.permutations(range(count)))
    one = calibrated(method, whole, deltas, facts)
    two = calibrated(method, whole, [deltas[i] for i in order], [facts[i] for i in order])
    assert same_bytes(one, two)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_weight_zero_does_not_calibrate(name: str) -> None:
    method = REGISTRY.create(name)
    whole, *deltas = task_vectors(14, 4, (4, 3))
    deltas[1].fill_(torch.nan)
    facts = facts_of(deltas, [1.0, 0.0, 0.5], method)
    with_it = calibrated(method, whole, deltas, facts)
    without = calibrated(method, whole, [deltas[0], deltas[2]], [facts[0], facts[2]])
    assert same_bytes(with_it, without)


@pytest.mark.parametrize("name", CALIBRATIONS)
@pytest.mark.parametrize("shape", [(9,), (5, 4)], ids=str)
def test_calibrations_of_float32_are_near_those_of_float64(
    name: str, shape: tuple[int, ...]
) -> None:
    method = REGISTRY.create(name)
    inputs = [delta.to(torch.float32) for delta in task_vectors(15, 4, shape)]
    facts = facts_of(inputs[1:], None, method)
    fast = calibrated(method, inputs[0], inputs[1:], facts)
    exact = calibrated(method, inputs[0].double(), [delta.double() for delta in inputs[1:]], facts)
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)
