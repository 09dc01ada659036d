import pytest
import torch
from torch import Tensor

from tests.merging.sketches import REGISTRY, Consensus
from tests.merging.whole import facts_of
from weft.merging.errors import CannotMerge, CorruptState, NotRemovable
from weft.merging.folding import FoldState
from weft.merging.method import Facts, Fold
from weft.merging.methods.magmax import MagMax
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.precision import Precision


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def facts(name: str = "a", weight: float = 1.0) -> Facts:
    return Facts(contribution=name, weight=weight)


def test_nothing_folded_has_no_result() -> None:
    state = FoldState.zero(Mean(), "w", (2,))
    with pytest.raises(CannotMerge, match="tensor 'w': no contribution"):
        state.finish()
    state.add(doubles(1, 2), facts(weight=0.0))
    assert state.count == 0
    with pytest.raises(CannotMerge):
        state.finish()


def test_adding_and_removing() -> None:
    state = FoldState.zero(Mean(), "w", (2,))
    state.add(doubles(1, 2), facts("a"))
    state.add(doubles(3, 6), facts("b", 3.0))
    assert state.finish().tolist() == [2.5, 5.0]
    state.remove(doubles(3, 6), facts("b", 3.0))
    state.remove(doubles(9, 9), facts("c", 0.0))
    assert state.count == 1
    assert state.finish().tolist() == [1.0, 2.0]


def test_an_empty_state_has_nothing_to_remove() -> None:
    state = FoldState.zero(TaskArithmetic(), "w", (1,))
    with pytest.raises(NotRemovable, match="a, tensor 'w': nothing has been added"):
        state.remove(doubles(0.0), facts())


def test_a_fold_of_extremes_says_so() -> None:
    state = FoldState.zero(MagMax(), "w", (1,))
    state.add(doubles(1.0), facts())
    with pytest.raises(NotRemovable, match="fold the others anew"):
        state.remove(doubles(1.0), facts())
    assert state.count == 1


@pytest.mark.parametrize(
    "other",
    [
        FoldState.zero(Mean(bound=1.0), "w", (2,)),
        FoldState.zero(TaskArithmetic(), "w", (2,)),
        FoldState.zero(Mean(), "v", (2,)),
        FoldState.zero(Mean(), "w", (3,)),
    ],
    ids=["options", "method", "tensor", "shape"],
)
def test_only_like_states_combine(other: FoldState) -> None:
    state = FoldState.zero(Mean(), "w", (2,))
    state.add(doubles(1, 2), facts())
    with pytest.raises(CannotMerge, match="does not fit"):
        state.combine(other)
    assert state.finish().tolist() == [1.0, 2.0]


def test_phases_do_not_combine() -> None:
    one = FoldState.zero(Consensus(), "w", (2,))
    with pytest.raises(CannotMerge, match="does not fit"):
        one.combine(FoldState.zero(Consensus(), "w", (2,), phase=1, previous=one.values()))


def test_a_second_phase_sees_the_first_and_finish_sees_both() -> None:
    first = FoldState.zero(Consensus(models=2, share=0.5), "w", (3,))
    models = [doubles(1, 1, 4), doubles(1, -1, 0)]
    for model in models:
        first.add(model, facts())
    assert first.values()["total"].tolist() == [2.0, 0.0, 4.0]
    second = FoldState.zero(
        Consensus(models=2, share=0.5), "w", (3,), phase=1, previous=first.values()
    )
    for model in models:
        second.add(model, facts())
    # |D| >= 0.5 |S - D|: both, both, only the first.
    assert second.values()["wanted"].tolist() == [2.0, 2.0, 1.0]
    assert second.finish().tolist() == [2.0, 0.0, 0.0]


def test_what_is_stored_says_what_it_is() -> None:
    state = FoldState.zero(Mean(), "w", (2,))
    state.add(doubles(1, 2), facts(weight=0.5))
    tensors = state.to_tensors()
    assert sorted(tensors) == ["contributions", "sum", "sum.reach", "weights"]
    again = FoldState.from_tensors(Mean(), "w", (2,), tensors)
    assert again.count == 1
    assert again.finish().tolist() == [1.0, 2.0]
    with pytest.raises(CorruptState, match="tensor 'w': 'sum' is"):
        FoldState.from_tensors(Mean(), "w", (3,), tensors)


def test_the_block_is_not_modified() -> None:
    block = doubles(1, 2)
    state = FoldState.zero(TaskArithmetic(), "w", (2,))
    state.add(block, facts())
    state.finish().zero_()
    assert block.tolist() == [1.0, 2.0]
    assert state.finish().tolist() == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("name", ["mean", "ties", "task_arithmetic", "magmax", "varm"])
def test_a_state_may_be_finished_more_than_once(name: str, precision: Precision) -> None:
    method = REGISTRY.create(name)
    assert isinstance(method, Fold)
    state = FoldState.zero(method, "w", (5,), precision=precision)
    deltas = [torch.arange(5.0, dtype=torch.float64) - seed for seed in (1, 2, 3)]
    for delta, facts in zip(deltas, facts_of(deltas, [1.0, 1.0, 1.0], method), strict=True):
        state.add(delta.to(precision.dtype), facts)
    first = state.finish().clone()
    assert torch.equal(state.finish(), first)
