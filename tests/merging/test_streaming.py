"""What every method keeps that a stream may have: put away, taken up again, gone back on."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from tests.merging.whole import facts_of
from weft.merging import registry
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import CannotMerge, CorruptState, NotRemovable
from weft.merging.method import Facts, Fold, Scope, Sequential
from weft.merging.precision import Precision
from weft.merging.registry import Kind
from weft.merging.streaming import (
    Place,
    StreamState,
    kept_bytes,
    removes_exactly,
    require_streaming,
)

WEIGHTS = (1.0, 0.5, 0.0, 2.0, 1.0)
SHAPES = [(7,), (5, 4), (2, 3, 2), ()]
REACH_BYTES = 8
"""Of a field's reach, stored beside it and not worth counting."""


def streams(name: str) -> bool:
    try:
        require_streaming(registry.create(name))
    except CannotMerge:
        return False
    return True


STREAMING = [name for name in registry.names() if streams(name)]
FOLDS = [name for name in STREAMING if registry.entry(name).kind is Kind.FOLD]
EXACT = [name for name in FOLDS if removes_exactly(registry.create(name), Precision.EXACT)]
LEAST = {"ema", "iso_c", "magmax", "mean", "opcm", "task_arithmetic", "ties", "wudi"}

Added = Sequence[tuple[Tensor, Facts]]


def place(name: str, shape: tuple[int, ...], precision: Precision = Precision.EXACT) -> Place:
    scope = registry.create(name).scope("fc.weight", shape)
    rows = (shape[0], -1) if shape else (1, 1)
    seen = {
        Scope.ELEMENT: torch.empty(shape).reshape(-1).shape,
        Scope.ROW: torch.empty(shape).reshape(rows).shape,
        Scope.MATRIX: shape,
    }
    return Place("fc.weight", shape, tuple(seen[scope]), precision)


def contributions(name: str, at: Place) -> list[tuple[Tensor, Facts]]:
    """Task vectors as the method sees them, and what it may know of them."""
    generator = torch.Generator().manual_seed(7)
    deltas = [
        torch.randn(at.tensor_shape, generator=generator, dtype=torch.float64).to(
            at.precision.dtype
        )
        for _ in WEIGHTS
    ]
    facts = facts_of(deltas, WEIGHTS, registry.create(name))
    return [(delta.reshape(at.shape), each) for delta, each in zip(deltas, facts, strict=True)]


def base_of(at: Place) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(at.shape, generator=generator, dtype=torch.float64).to(at.precision.dtype)


def zero(name: str, at: Place) -> StreamState:
    return StreamState.zero(registry.create(name), at, base_of(at))


def filled(name: str, at: Place, added: Added) -> StreamState:
    state = zero(name, at)
    for block, facts in added:
        state.add(block, facts)
    return state


def stored(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """As they lie on a disk."""
    return {
        name: (
            tensor.dtype,
            tuple(tensor.shape),
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in tensors.items()
    }


def put_away(name: str, at: Place, state: StreamState) -> StreamState:
    """Written, forgotten and read again, in memory of its own."""
    tensors = {key: tensor.clone() for key, tensor in state.to_tensors().items()}
    return StreamState.restored(registry.create(name), at, tensors)


def test_what_may_stream() -> None:
    assert set(STREAMING) >= LEAST
    assert {"ema", "opcm", "magmax", "emr"}.isdisjoint(EXACT)
    assert {"mean", "ties", "iso_c", "wudi"} <= set(EXACT)
    for name, words in (("consensus", "2 times"), ("krum", "all contributions at once")):
        with pytest.raises(CannotMerge, match=words):
            require_streaming(registry.create(name))


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("name", STREAMING)
def test_put_away_after_each_and_taken_up_again(name: str, precision: Precision) -> None:
    for shape in SHAPES:
        at = place(name, shape, precision)
        added = contributions(name, at)
        whole, other = zero(name, at), put_away(name, at, zero(name, at))
        for block, facts in added:
            whole.add(block.clone(), facts)
            other.add(block.clone(), facts)
            other = put_away(name, at, other)
        assert stored(other.to_tensors()) == stored(whole.to_tensors())
        assert torch.equal(other.merged(base_of(at)), whole.merged(base_of(at)))


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("name", STREAMING)
def test_the_state_does_not_grow(name: str, precision: Precision) -> None:
    for shape in SHAPES:
        at = place(name, shape, precision)
        state, schemas, sizes = zero(name, at), set(), set()
        for block, facts in contributions(name, at):
            state.add(block, facts)
            tensors = state.to_tensors()
            schemas.add(tuple((key, t.dtype, tuple(t.shape)) for key, t in tensors.items()))
            sizes.add(sum(tensor.nbytes for tensor in tensors.values()))
        empty = zero(name, at).to_tensors()
        schemas.add(tuple((key, t.dtype, tuple(t.shape)) for key, t in empty.items()))
        assert len(schemas) == 1
        (size,) = sizes
        told = kept_bytes(registry.create(name), "fc.weight", shape, precision)
        assert told <= size <= told + REACH_BYTES * len(empty)


@pytest.mark.parametrize("name", STREAMING)
def test_reading_the_result_changes_nothing(name: str) -> None:
    at = place(name, (5, 4))
    state = filled(name, at, contributions(name, at))
    before, first = stored(state.to_tensors()), state.merged(base_of(at)).clone()
    assert torch.equal(state.merged(base_of(at)), first)
    assert stored(state.to_tensors()) == before


@pytest.mark.parametrize("name", FOLDS)
def test_a_fold_comes_to_what_a_merge_of_all_comes_to(name: str) -> None:
    for shape in SHAPES:
        at = place(name, shape)
        added = contributions(name, at)
        found = filled(name, at, added).merged(base_of(at))
        block = Block(name=at.name, tensor_shape=at.tensor_shape, shape=at.shape, base=base_of(at))
        method = registry.create(name)
        blocks, facts = [b for b, _ in added], [f for _, f in added]
        assert torch.equal(found, merge_block(method, block, blocks, facts))


@pytest.mark.parametrize("name", FOLDS)
def test_a_fold_does_not_know_who_came_first(name: str) -> None:
    at = place(name, (5, 4))
    added = contributions(name, at)
    one, two = filled(name, at, added), filled(name, at, added[::-1])
    assert stored(one.to_tensors()) == stored(two.to_tensors())


@pytest.mark.parametrize("name", EXACT)
def test_who_goes_was_never_there(name: str) -> None:
    """Whoever goes, whoever came before or after, and however often it was put away."""
    for shape in SHAPES:
        at = place(name, shape)
        added = contributions(name, at)
        for gone in range(len(added)):
            state = put_away(name, at, filled(name, at, added))
            state.remove(*added[gone])
            never = filled(name, at, [*added[:gone], *added[gone + 1 :]])
            assert stored(state.to_tensors()) == stored(never.to_tensors())


@pytest.mark.parametrize("name", EXACT)
def test_all_gone_is_nothing(name: str) -> None:
    at = place(name, (5, 4))
    added = contributions(name, at)
    state = filled(name, at, added)
    for each in added:
        state.remove(*each)
    assert stored(state.to_tensors()) == stored(zero(name, at).to_tensors())
    with pytest.raises(CannotMerge):
        state.merged(base_of(at))


@pytest.mark.parametrize("name", [name for name in STREAMING if name not in EXACT])
def test_what_cannot_go_says_so(name: str) -> None:
    at = place(name, (5, 4))
    added = contributions(name, at)
    state = filled(name, at, added)
    before = stored(state.to_tensors())
    with pytest.raises(NotRemovable, match="node-0"):
        state.remove(*added[0])
    assert stored(state.to_tensors()) == before


@pytest.mark.parametrize("name", STREAMING)
def test_a_weight_of_zero_is_nobody(name: str) -> None:
    at = place(name, (5, 4))
    added = contributions(name, at)
    present = [each for each in added if each[1].weight != 0]
    one, two = filled(name, at, added), filled(name, at, present)
    assert stored(one.to_tensors()) == stored(two.to_tensors())
    with pytest.raises(CannotMerge):
        filled(name, at, [each for each in added if each[1].weight == 0]).merged(base_of(at))


@pytest.mark.parametrize("name", STREAMING)
def test_another_state_is_refused(name: str) -> None:
    at, method = place(name, (5, 4)), registry.create(name)
    tensors = filled(name, at, contributions(name, at)).to_tensors()
    for key, tensor in tensors.items():
        without = {other: t for other, t in tensors.items() if other != key}
        with pytest.raises(CorruptState, match=r"fc\.weight"):
            StreamState.restored(method, at, without)
        with pytest.raises(CorruptState, match=r"fc\.weight"):
            StreamState.restored(method, at, {**tensors, key: torch.stack([tensor, tensor])})


@pytest.mark.parametrize("name", STREAMING)
def test_a_kind_is_one_of_two(name: str) -> None:
    assert isinstance(registry.create(name), Fold | Sequential)
    only_exact = [removes_exactly(registry.create(name), p) for p in Precision]
    assert only_exact == [name in EXACT, False, False]
