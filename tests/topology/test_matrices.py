"""Mixing matrices as arrays, lost edges, and the check of sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topology.built import built
from weft.topology.edges import Edges, summed
from weft.topology.errors import NotStochastic
from weft.topology.matrices import Mixing, check_stochastic, missing_to_self

EQUAL = np.full(3, 1 / 3)


def three() -> Mixing:
    """By hand: node 0 takes from 1 and 2, node 1 from 0, node 2 from nobody."""
    edges = Edges.pulls(3, np.array([0, 0, 1]), np.array([1, 2, 0]))
    return Mixing.of(edges, np.array([0.25, 0.5, 0.4]), np.array([0.25, 0.6, 1.0]))


def test_arrays_are_in_canonical_order_with_the_diagonal() -> None:
    mixing = three()
    assert mixing.receivers.tolist() == [0, 0, 0, 1, 1, 2]
    assert mixing.senders.tolist() == [0, 1, 2, 0, 1, 2]
    assert mixing.weights.tolist() == [0.25, 0.25, 0.5, 0.4, 0.6, 1.0]
    assert mixing.receivers.dtype == np.int32
    assert mixing.weights.dtype == np.float64


def test_dense_sparse_and_rows_agree() -> None:
    dense = np.array([[0.25, 0.25, 0.5], [0.4, 0.6, 0], [0, 0, 1.0]])
    mixing = three()
    assert np.array_equal(mixing.dense(), dense)
    assert np.array_equal(mixing.sparse().toarray(), dense)
    assert mixing.row(1) == [(0, 0.4), (1, 0.6)]
    assert mixing.row(2) == [(2, 1.0)]
    assert mixing.neighbours(0) == [1, 2]
    assert mixing.messages == 3


def test_arrays_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        three().weights[0] = 1


def test_transposed_and_symmetric() -> None:
    assert np.array_equal(three().transposed().dense(), three().dense().T)
    assert not three().is_symmetric
    assert built("star", 5).mixing(0).is_symmetric


def test_equal_is_to_the_bit() -> None:
    other = Mixing(3, three().receivers, three().senders, np.nextafter(three().weights, 2))
    assert three() == three()
    assert three() != other
    assert three() != Mixing.identity(3)


def test_identity() -> None:
    assert np.array_equal(Mixing.identity(4).dense(), np.eye(4))
    assert Mixing.identity(4).messages == 0


def test_zero_weights_are_neither_messages_nor_neighbours() -> None:
    mixing = Mixing.of(
        Edges.between(2, np.array([0]), np.array([1])), np.array([0.0, 0.0]), np.array([1.0, 0.0])
    )
    assert mixing.messages == 0
    assert mixing.row(0) == [(0, 1.0)]
    assert mixing.row(1) == [(1, 0.0)]


def test_missing_to_self_by_hand() -> None:
    row = {"a": 0.25, "b": 0.25, "c": 0.5}
    assert missing_to_self(row, "a", {"c"}) == {"a": 0.75, "b": 0.25}
    assert missing_to_self(row, "a", {"b", "c"}) == {"a": 1.0}
    assert missing_to_self(row, "a", set()) == row
    assert missing_to_self(row, "a", {"a", "z"}) == row


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["ring", "star", "torus", "erdos_renyi"]), st.data())
def test_lost_edges_keep_rows_and_where_both_ends_know_the_mean(
    graph: str, data: st.DataObject
) -> None:
    mixing = built(graph, 12).mixing(0)
    lost = np.array(data.draw(st.lists(st.booleans(), min_size=len(mixing.weights), max_size=200)))
    lost = np.resize(lost, len(mixing.weights))
    one_end = mixing.without(lost).dense()
    assert np.abs(one_end.sum(axis=1) - 1).max() < 1e-14
    assert (one_end >= 0).all()
    pairs = np.zeros((12, 12), dtype=bool)
    pairs[mixing.receivers, mixing.senders] = lost
    both = mixing.without((pairs | pairs.T)[mixing.receivers, mixing.senders])
    assert both.is_symmetric or np.abs(both.dense() - both.dense().T).max() < 1e-15
    assert np.abs(both.dense().sum(axis=0) - 1).max() < 1e-14


def test_lost_entries_and_lost_rows_are_the_same_rule() -> None:
    mixing = built("star", 6).mixing(0)
    lost = (mixing.receivers == 0) & np.isin(mixing.senders, [2, 4])
    row = missing_to_self(dict(mixing.row(0)), 0, {2, 4})
    assert dict(mixing.without(lost).row(0)) == pytest.approx(row, abs=1e-15)


@pytest.mark.parametrize(("both", "drift"), [(False, 0.057), (True, 0.0)])
def test_drift_of_the_mean_under_loss(both: bool, drift: float) -> None:
    """A ring of 16 that misses a tenth of its edges for 100 rounds, 100 times over."""
    mixing = built("ring", 16).mixing(0)
    entries = list(zip(mixing.receivers.tolist(), mixing.senders.tolist(), strict=True))
    back = [entries.index((sender, receiver)) for receiver, sender in entries]
    chance = np.random.default_rng(0)
    drifts = []
    for _ in range(100):
        start = held = chance.standard_normal(16)
        for _ in range(100):
            lost = chance.random(len(entries)) < 0.1
            if both:
                lost = np.where(mixing.receivers < mixing.senders, lost, lost[back])
            after = mixing.without(lost)
            held = summed(after.receivers, after.weights * held[after.senders], 16)
        drifts.append(held.mean() - start.mean())
    assert np.std(drifts) == pytest.approx(drift, abs=0.015 if drift else 1e-14)


@pytest.mark.parametrize(
    ("weights", "own", "message"),
    [
        ([0.5, 0.5], [0.4, 0.5], "row 0 with sum 0.9, expected 1"),
        ([0.5, 0.4], [0.5, 0.6], "column 1 with sum 1.1, expected 1"),
        ([-0.5, 0.5], [1.5, 0.5], "a weight below 0 or not finite"),
        ([np.nan, 0.5], [0.5, 0.5], "a weight below 0 or not finite"),
    ],
)
def test_what_is_no_average_is_refused(
    weights: list[float], own: list[float], message: str
) -> None:
    edges = Edges.between(2, np.array([0]), np.array([1]))
    mixing = Mixing.of(edges, np.array(weights), np.array(own))
    with pytest.raises(NotStochastic, match=f"^here: found {message}"):
        check_stochastic(mixing, "here", kept=np.full(2, 0.5), columns=False)


def test_columns_alone_are_enough_for_push_sum_and_rows_where_drift_is_declared() -> None:
    rows = three()
    check_stochastic(rows, "here", kept=None, columns=False)
    check_stochastic(rows.transposed(), "here", kept=None, columns=True)
    with pytest.raises(NotStochastic, match="column"):
        check_stochastic(rows, "here", kept=EQUAL, columns=False)
    with pytest.raises(NotStochastic, match="column"):
        check_stochastic(rows, "here", kept=None, columns=True)
