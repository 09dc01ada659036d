from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.merging.sketches import Clip, Consensus, Newest, PlainMean
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import CannotMerge, FoldFull
from weft.merging.method import Facts, Method
from weft.merging.methods.ema import Ema
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum

BLOCK = Block(name="w", tensor_shape=(4,), shape=(1,))


def facts(*weights: float) -> list[Facts]:
    return [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]


def doubles(*values: float) -> list[Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@pytest.mark.parametrize("method", [Mean(), Ema(), Newest(), Clip()])
def test_nothing_is_not_merged(method: Method) -> None:
    with pytest.raises(CannotMerge, match="tensor 'w': no contribution"):
        merge_block(method, BLOCK, doubles(1.0), facts(0.0))
    with pytest.raises(CannotMerge):
        merge_block(method, BLOCK, [], [])


def test_a_transform_does_not_merge() -> None:
    with pytest.raises(CannotMerge, match="Clip changes one task vector"):
        merge_block(Clip(), BLOCK, doubles(1.0), facts(1.0))


def test_an_ordered_joint_method_gets_the_order_given() -> None:
    given = [Facts(contribution="z"), Facts(contribution="a")]
    assert merge_block(Newest(), BLOCK, doubles(1.0, 2.0), given).item() == 2.0


def test_other_joint_methods_get_the_order_of_names() -> None:
    tiny = doubles(1e16, 1.0, -1e16)
    names = ["b", "c", "a"]
    given = [Facts(contribution=name) for name in names]
    # (-1e16 + 1e16) + 1, not (1e16 + 1) - 1e16.
    assert merge_block(PlainMean(), BLOCK, tiny, given).item() == pytest.approx(1 / 3)


class Once:
    """Task vectors that are made when asked for, and counted."""

    def __init__(self, values: list[Tensor]) -> None:
        self.values = values
        self.made = 0

    def __iter__(self) -> Iterator[Tensor]:
        for value in self.values:
            self.made += 1
            yield value


@pytest.mark.parametrize(("method", "looks"), [(Mean(), 1), (Consensus(), 2), (Ema(), 1)])
def test_task_vectors_are_made_once_a_phase(method: Method, looks: int) -> None:
    deltas = Once(doubles(1.0, 2.0, 3.0))
    merge_block(method, BLOCK, deltas, facts(1.0, 1.0, 1.0))
    assert deltas.made == 3 * looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped(TaskArithmetic):
    """Refuses any tensor but one."""

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        assert (name, shape) == ("w", (4,))
        return {"sum": Sum()}


def test_fields_are_asked_for_by_the_whole_tensors_shape() -> None:
    assert merge_block(Shaped(scale=1.0), BLOCK, doubles(2.0), facts(1.0)).item() == 2.0


def test_numbers_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        merge_block(Mean(), BLOCK, doubles(1.0, 2.0), facts(1.0))


def test_weights_are_brought_near_one_by_a_power_of_two() -> None:
    scaled = in_proportion(Mean(), facts(60_000.0, 15_000.0, 0.0))
    assert [fact.weight for fact in scaled] == [60_000 / 2**15, 15_000 / 2**15, 0.0]
    assert [fact.contribution for fact in scaled] == ["n0", "n1", "n2"]
    assert [f.weight for f in in_proportion(Mean(), facts(1e-300, 3e-300))][1] >= 1.0
    assert [f.weight for f in in_proportion(Mean(), facts(1.0, 1.0))] == [1.0, 1.0]


def test_weights_that_matter_are_left_alone() -> None:
    assert in_proportion(TaskArithmetic(), facts(60_000.0)) == facts(60_000.0)
    assert in_proportion(Mean(), facts(0.0)) == facts(0.0)
    assert in_proportion(Mean(), []) == []


def test_numbers_of_samples_do_not_leave_the_grid() -> None:
    counts = facts(6e7, 2e7)
    deltas = doubles(1.0, 5.0)
    with pytest.raises(Exception, match="beyond the bound"):
        merge_block(Mean(), BLOCK, deltas, counts)
    assert merge_block(Mean(), BLOCK, deltas, in_proportion(Mean(), counts)).item() == 2.0


def test_five_thousand_contributions_of_full_bound_are_refused_in_words() -> None:
    with pytest.raises(FoldFull, match=r"n4095, tensor 'w': adding it could overflow"):
        merge_block(Mean(), BLOCK, doubles(4096.0) * 5000, facts(*[1.0] * 5000))
