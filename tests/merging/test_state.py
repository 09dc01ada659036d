import pytest
import torch

from weft.merging.errors import CannotMerge, CorruptState, FoldFull, NotRemovable, OutOfBound
from weft.merging.extremes import Max
from weft.merging.state import State, state_bytes
from weft.merging.sums import Count, Sum

FIELDS = {"sum": Sum(), "count": Count()}


def addends(value: float, count: int = 1) -> dict[str, torch.Tensor]:
    return {
        "sum": torch.full((2,), value, dtype=torch.float64),
        "count": torch.full((2,), count),
    }


def state_of(*values: float) -> State:
    state = State.zero(FIELDS, (2,))
    for value in values:
        state.add(addends(value), "x")
    return state


def same(one: State, two: State) -> bool:
    left, right = one.to_tensors(), two.to_tensors()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_every_field_is_folded() -> None:
    values = state_of(1.5, 2.0).values()
    assert values["sum"].tolist() == [3.5, 3.5]
    assert values["count"].tolist() == [2.0, 2.0]


def test_combining_is_adding_all() -> None:
    state = state_of(1.0)
    other = state_of(2.0, 3.0)
    state.combine(other, "x")
    assert same(state, state_of(3.0, 1.0, 2.0))
    assert same(other, state_of(2.0, 3.0))


def test_removal_is_not_having_added() -> None:
    state = state_of(1.0, 2.0)
    state.remove(addends(1.0), "x")
    assert same(state, state_of(2.0))


def test_what_one_field_refuses_no_field_takes() -> None:
    state = State.zero({"count": Count(), "sum": Sum()}, (2,))
    with pytest.raises(OutOfBound):
        state.add(addends(1e9), "x")
    assert not any(bool(tensor.any()) for tensor in state.to_tensors().values())


def test_where_one_field_is_full_no_field_takes() -> None:
    full = State.zero(FIELDS, (2,))
    full.add(addends(1.0, 2**31 - 1), "x")
    more = state_of(1.0)
    with pytest.raises(FoldFull, match="x: adding it could overflow"):
        full.combine(more, "x")
    with pytest.raises(FoldFull):
        full.add(addends(1.0), "x")
    assert full.values()["sum"].tolist() == [1.0, 1.0]


def test_what_one_field_cannot_remove_no_field_does() -> None:
    fields = {"sum": Sum(), "highest": Max()}
    state = State.zero(fields, (1,))
    one = {name: torch.ones(1, dtype=torch.float64) for name in fields}
    state.add(one, "x")
    with pytest.raises(NotRemovable):
        state.remove(one, "x")
    assert state.values()["sum"].tolist() == [1.0]


def test_states_of_other_fields_do_not_combine() -> None:
    with pytest.raises(CannotMerge, match="does not fit"):
        State.zero({"sum": Sum()}, (2,)).combine(State.zero({"sum": Sum(bound=1.0)}, (2,)), "x")


def test_stored_and_taken_up_again() -> None:
    state = state_of(0.1, 0.2)
    again = State.from_tensors(FIELDS, (2,), state.to_tensors(), "x")
    again.add(addends(0.3), "x")
    assert same(again, state_of(0.1, 0.2, 0.3))
    assert same(state, state_of(0.1, 0.2))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("sum", None, "has no 'sum'"),
        ("sum", torch.zeros((1, 3), dtype=torch.int64), r"shape \(1, 3\), expected"),
        ("sum", torch.zeros((1, 2)), "torch.float32"),
        ("count.reach", None, "has no 'count.reach'"),
        ("count.reach", torch.tensor([-1]), "'count.reach' is negative"),
    ],
)
def test_other_tensors_are_not_a_state(
    name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = state_of(1.0).to_tensors()
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    with pytest.raises(CorruptState, match=message):
        State.from_tensors(FIELDS, (2,), tensors, "here")


def test_state_bytes() -> None:
    assert state_bytes(FIELDS, (5,)) == 5 * 8 + 5 * 4
