"""In which rounds to talk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.topology.errors import BadOption, UnknownName
from weft.topology.options import Scalar
from weft.topology.talk import Everybody, OnGraph, Pairs, Silent, Talk
from weft.topology.timings import late_rounds, timing


def talks(name: str, rounds: int, **options: Scalar) -> list[Talk]:
    when = timing(name, list(options.items()))
    return [when.at(round, rounds, ()) for round in range(rounds)]


def test_every_k_rounds_merges_after_k_rounds_of_training() -> None:
    silent = Silent()
    assert talks("every", 6, k=3) == [silent, silent, OnGraph(0), silent, silent, OnGraph(1)]
    assert talks("every", 3) == [OnGraph(0), OnGraph(1), OnGraph(2)]


def test_sparse_does_the_same_in_all_rounds() -> None:
    assert talks("sparse", 3, pairs_per_node=0.5, one_way=True) == [Pairs(0.5, True)] * 3
    assert talks("sparse", 3, pairs_per_node=0.0) == [Silent()] * 3


@pytest.mark.parametrize(
    ("options", "dense"),
    [
        ({"start": 3, "length": 2}, {3, 4}),
        ({"start": 0, "length": 1}, {0}),
        ({"length": 3}, {37, 38, 39}),
        ({}, {38, 39}),
        ({"start": 38, "length": 9}, {38, 39}),
        ({"length": 100}, set(range(40))),
    ],
)
def test_a_window_is_dense_inside_and_sparse_outside(
    options: dict[str, int], dense: set[int]
) -> None:
    found = talks("window", 40, **options)
    assert {round for round, talk in enumerate(found) if talk == Everybody()} == dense
    assert all(talk == Pairs(0.2, False) for talk in set(found) - {Everybody()})


def test_a_window_on_the_graph_counts_its_steps_from_the_window() -> None:
    found = talks("window", 6, start=2, length=3, inside="graph", pairs_per_node=0.0)
    silent = Silent()
    assert found == [silent, silent, OnGraph(0), OnGraph(1), OnGraph(2), silent]


def test_late_by_hand() -> None:
    # (round + 1)^2 / 100 passes 1/4, 2/4, 3/4, 1 after rounds 5, 8 (7.07), 9 (8.66), 10.
    assert late_rounds(10, 4, 1) == {4: 0, 7: 1, 8: 2, 9: 3}
    assert late_rounds(10, 5, 0) == {1: 0, 3: 1, 5: 2, 7: 3, 9: 4}


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 120), st.data(), st.integers(0, 8))
def test_late_spends_its_whole_budget_ever_denser(
    rounds: int, data: st.DataObject, power: int
) -> None:
    budget = data.draw(st.integers(1, rounds))
    found = late_rounds(rounds, budget, power)
    assert len(found) == budget
    assert list(found) == sorted(found)
    assert list(found.values()) == list(range(budget))
    assert max(found) == rounds - 1
    assert min(found) >= 0
    if power:
        half = sum(round >= rounds // 2 for round in found)
        assert half >= budget // 2


def test_late_is_later_with_more_power() -> None:
    means = [np.mean(list(late_rounds(1000, 50, power))) for power in (0, 1, 2, 4)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(509.5, abs=1)


def test_late_through_the_schedule() -> None:
    found = talks("late", 10, budget=4, power=1)
    assert [round for round, talk in enumerate(found) if talk != Silent()] == [4, 7, 8, 9]
    assert found[8] == OnGraph(2)
    assert talks("late", 0) == []
    assert sum(talk != Silent() for talk in talks("late", 30, budget=99)) == 30


def test_final_only_never_talks() -> None:
    assert talks("final_only", 5) == [Silent()] * 5


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("every", "k", 0),
        ("sparse", "pairs_per_node", -0.1),
        ("sparse", "pairs_per_node", float("inf")),
        ("window", "start", -2),
        ("window", "length", -1),
        ("window", "inside", "ring"),
        ("late", "budget", -1),
        ("late", "power", 21),
        ("adaptive", "k", 33),
        ("adaptive", "k", 0),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, option: str, value: Scalar) -> None:
    with pytest.raises(BadOption, match=f"schedule {name}: option {option}: found {value!r}"):
        timing(name, [(option, value)])


def test_an_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="schedule 'spare' is not known; did you mean 'sparse'"):
        timing("spare")
