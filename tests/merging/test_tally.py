import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.merging.errors import CorruptState, NotRemovable
from weft.merging.tally import Tally

weights = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=10)


def tally_of(values: list[float]) -> Tally:
    tally = Tally()
    for value in values:
        tally.add(value)
    return tally


def same(one: Tally, two: Tally) -> bool:
    left, right = one.to_tensors(), two.to_tensors()
    return all(torch.equal(left[name], right[name]) for name in left)


@given(st.lists(st.floats(-1e300, 1e300), max_size=10), st.randoms())
def test_the_sum_is_exact_and_rounded_once(values: list[float], random: Random) -> None:
    tally = tally_of(values)
    assert tally.totals.count == len(values)
    assert tally.totals.weight == math.fsum(values)
    random.shuffle(values)
    assert same(tally, tally_of(values))


@given(weights, st.floats(allow_nan=False, allow_infinity=False))
def test_removing_is_not_having_added(values: list[float], more: float) -> None:
    tally = tally_of([*values, more])
    tally.remove(more)
    assert same(tally, tally_of(values))


@given(weights, weights)
def test_combining_is_adding_all(some: list[float], others: list[float]) -> None:
    tally = tally_of(some)
    tally.combine(tally_of(others))
    assert same(tally, tally_of([*some, *others]))


@given(weights)
def test_stored_and_taken_up_again(values: list[float]) -> None:
    tally = tally_of(values)
    assert same(Tally.from_tensors(tally.to_tensors(), "x"), tally)


def test_nothing_cannot_be_removed() -> None:
    with pytest.raises(NotRemovable, match="here: nothing has been added"):
        Tally().require_member("here")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("contributions", None),
        ("contributions", torch.tensor([-1])),
        ("contributions", torch.tensor([1, 2])),
        ("weights", None),
        ("weights", torch.zeros(3, dtype=torch.uint8)),
        ("weights", torch.zeros(272)),
    ],
)
def test_other_tensors_are_no_tally(name: str, tensor: torch.Tensor | None) -> None:
    tensors = tally_of([1.0]).to_tensors()
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    with pytest.raises(CorruptState, match=r"^here: the state does not say"):
        Tally.from_tensors(tensors, "here")
