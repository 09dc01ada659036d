import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import lora_lego as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption
from weft.merging.factors import LowRank
from weft.merging.method import Facts
from weft.merging.methods.lora_lego import LoraLego

Unit = tuple[list[float], list[float]]


def adapter(*units: Unit) -> LowRank:
    columns = torch.tensor([unit[0] for unit in units], dtype=torch.float64).T
    return LowRank(columns, torch.tensor([unit[1] for unit in units], dtype=torch.float64))


def merged(method: LoraLego, adapters: list[LowRank], *weights: float) -> list[list[float]]:
    facts = [
        Facts(contribution=f"n{i}", weight=weight)
        for i, weight in enumerate(weights or [1.0] * len(adapters))
    ]
    dense = method.merge_factors("fc.weight", adapters, facts).dense()
    found: list[list[float]] = dense.tolist()
    return found


def close(found: list[list[float]], expected: list[list[float]]) -> None:
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-12)


PARALLEL = [
    adapter(([1.0, 0.0], [1.0, 0.0]), ([0.0, 1.0], [0.0, 1.0])),
    adapter(([3.0, 0.0], [3.0, 0.0]), ([0.0, -3.0], [0.0, -3.0])),
]
"""Two clusters along the axes, with one unit of either adapter, once turned over."""


def test_by_hand() -> None:
    # Along each axis, units of length 1 and 3 (times sqrt 2): their mean is 2, 2 * 2 = 4.
    close(merged(LoraLego(), PARALLEL), [[4.0, 0.0], [0.0, 4.0]])


def test_weights_count_within_a_cluster() -> None:
    # (1 + 3 * 3) / 4 = 2.5, squared.
    close(merged(LoraLego(), PARALLEL, 1.0, 3.0), [[6.25, 0.0], [0.0, 6.25]])
    close(merged(LoraLego(), PARALLEL, 2.0, 6.0), [[6.25, 0.0], [0.0, 6.25]])


def test_a_negative_weight_turns_units_over() -> None:
    one = adapter(([1.0, 0.0], [1.0, 0.0]))
    close(merged(LoraLego(), [one], -1.0), [[-1.0, 0.0], [0.0, 0.0]])


def test_a_centre_is_as_long_as_its_members() -> None:
    # The mean of (1, 0 | 1, 0) and (0, 1 | 1, 0) is (1/2, 1/2 | 1, 0), of squared length
    # 3/2 where its members have 2: both halves grow by sqrt(4/3).
    two = [adapter(([1.0, 0.0], [1.0, 0.0])), adapter(([0.0, 1.0], [1.0, 0.0]))]
    close(merged(LoraLego(), two), [[2 / 3, 0.0], [2 / 3, 0.0]])


def test_more_units_are_scaled_down() -> None:
    # Two clusters of one unit each, from adapters of one unit: sqrt(1 / 2).
    two = [adapter(([1.0, 0.0], [1.0, 0.0])), adapter(([0.0, 2.0], [0.0, 2.0]))]
    root = math.sqrt(0.5)
    close(merged(LoraLego(rank=2), two), [[root, 0.0], [0.0, 4 * root]])
    close(merged(LoraLego(rank=7), two), [[root, 0.0], [0.0, 4 * root]])


def test_how_a_unit_is_split_does_not_matter() -> None:
    lopsided = [
        adapter(([-8.0, 0.0], [-0.125, 0.0]), ([0.0, 0.5], [0.0, 2.0])),
        adapter(([0.75, 0.0], [12.0, 0.0]), ([0.0, 3.0], [0.0, 3.0])),
    ]
    close(merged(LoraLego(), lopsided), [[4.0, 0.0], [0.0, 4.0]])


def test_k_means_moves_from_its_start() -> None:
    # On a line, it starts at 10 and at 0, so 4.9 goes to 0 and 5.2 to 10. Their means are
    # 0.8 and 7.6, and 4.9 changes over: 0 and 6.7.
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 4.9, 5.2, 10.0]
    parts = [adapter(([value, 1.0], [value, 1.0])) for value in values]
    facts = [Facts(contribution=f"n{i}") for i in range(len(parts))]
    found = LoraLego(rank=2).merge_factors("fc.weight", parts, facts)
    places = sorted((found.A[:, 0] / found.A[:, 1]).tolist())
    assert places == pytest.approx([0.0, 6.7])


@pytest.mark.parametrize("inputs", [None, 2])
@pytest.mark.parametrize("rank", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.3, 2.0, 1.1, 0.7]])
def test_as_the_reference(inputs: int | None, rank: int, weights: list[float]) -> None:
    base, models = some_models(7, 4, inputs)
    expected = reference.merge(
        base, models, weights=weights, rank=rank, rounds=30, averaged=AVERAGED
    )
    assert_same(merge_models(LoraLego(rank=rank), base, models, weights), expected)


def test_equal_contributions_give_themselves() -> None:
    base, models = some_models(8, 1, rank=2)
    assert_same(merge_models(LoraLego(), base, models * 3, [1.0, 2.0, 0.5]), models[0])


def test_when_one_is_given_back() -> None:
    assert LoraLego().gives_back_one
    assert not LoraLego(rank=3).gives_back_one
    close(merged(LoraLego(), [PARALLEL[1]], 0.2), [[9.0, 0.0], [0.0, 9.0]])


def test_units_that_do_nothing_are_not_there() -> None:
    idle: Unit = ([0.0, 0.0], [5.0, 5.0])
    one = adapter(([2.0, 0.0], [2.0, 0.0]), idle, idle)
    close(merged(LoraLego(), [one]), [[4.0, 0.0], [0.0, 0.0]])


def test_duplicate_units_leave_no_empty_cluster() -> None:
    unit: Unit = ([2.0, 0.0], [2.0, 0.0])
    found = LoraLego(rank=2).merge_factors(
        "fc.weight", [adapter(unit, unit), adapter(unit)], [Facts(contribution=c) for c in "ab"]
    )
    # One centre for three units of two adapters: r is 3/2 and k is 1.
    assert found.rank == 1
    assert found.dense()[0, 0].item() == pytest.approx(4 * math.sqrt(1.5))


def test_the_dense_path_takes_singular_triplets() -> None:
    deltas: list[Tensor] = [torch.diag(torch.tensor(v).double()) for v in ([1.0, 0.0], [9.0, 0.0])]
    block = Block(name="fc.weight", tensor_shape=(2, 2), shape=(2, 2))
    found = merge_block(LoraLego(), block, deltas, facts_of(deltas))
    close(found.tolist(), [[4.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("options", [{"rank": -1}, {"rounds": 0}, {"rounds": 2.5}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"lora_lego: {next(iter(options))} is"):
        LoraLego(**options)
