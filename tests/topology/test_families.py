"""Every graph with every rule of weights and 1 to 20 nodes: right, or refused by name."""

import numpy as np
import pytest

from tests.topology.built import GRAPHS, WEIGHTS, built, product
from weft.topology.errors import BadGraph, BadWeights, NotStochastic, UnknownName
from weft.topology.families import GRAPHS as TABLE
from weft.topology.families import graph
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule
from weft.topology.weights import OWN, RULES

REFUSALS: dict[str, set[str]] = {
    # What may be refused at all, and by which error; everything else must be right.
    "hypercube": {"BadGraph"},
    "random_regular": {"BadGraph"},
    "watts_strogatz": {"BadGraph"},
}
NOT_REGULAR = {"path", "star", "two_hub", "erdos_renyi", "watts_strogatz", "file"}
ONE_WAY = {"exponential", "one_peer_exponential"}


def path_text(nodes: int) -> str:
    return " ".join(f"{node}-{node + 1}" for node in range(nodes - 1))


def allowed(name: str, weights: str) -> set[str]:
    names = set(REFUSALS.get(name, set()))
    if name == "base_k" and weights != OWN:
        names.add("BadWeights")
    if weights == "uniform" and name in NOT_REGULAR:
        names.add("NotStochastic")
    if weights == "hastings" and name in ONE_WAY:
        names.add("NotStochastic")
    if name == "epidemic" and weights != "push_sum":
        names.add("NotStochastic")
    return names


def assert_right(schedule: Schedule) -> None:
    """Sums, what is kept, and agreement in the long run."""
    nodes = schedule.nodes
    for round in range(schedule.period or 3):
        dense = schedule.mixing(round).dense()
        assert (dense >= 0).all()
        if not schedule.push_sum:
            assert np.abs(dense.sum(axis=1) - 1).max() < 1e-12
            assert np.abs(schedule.target @ dense - schedule.target).max() < 1e-12
        else:
            assert np.abs(dense.sum(axis=0) - 1).max() < 1e-12
    total = product(schedule, schedule.period or 60)
    for _ in range(14):
        total = total @ total
    values = total / total.sum(axis=1, keepdims=True) if schedule.push_sum else total
    target = np.full(nodes, 1 / nodes) if schedule.push_sum else schedule.target
    assert np.abs(values - target).max() < 1e-9, (schedule.params.title, nodes)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", GRAPHS)
def test_right_or_refused_by_name(name: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Twenty nodes are scaled in far fewer steps, or never.
    monkeypatch.setattr("weft.topology.sinkhorn.ALTERNATIONS", 1000)
    right, refused = 0, []
    for nodes in range(1, 21):
        options: dict[str, Scalar] = {"listed": path_text(nodes)} if name == "file" else {}
        sizes = list(range(1, nodes + 1)) if weights == "hastings" else None
        try:
            schedule = built(name, nodes, weights, options=options, sizes=sizes)
            schedule.check()
        except (BadGraph, BadWeights, NotStochastic) as error:
            refused.append((nodes, type(error).__name__, str(error)))
            continue
        right += 1
        assert_right(schedule)
    for nodes, error_name, message in refused:
        assert error_name in allowed(name, weights), (nodes, message)
        assert name in message
        assert nodes > 2 or name == "base_k" or weights == "hastings"
    assert right >= 2 or (name == "base_k" and weights != OWN)


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "file"])
def test_one_node_keeps_what_it_has_and_two_share(name: str) -> None:
    for round in range(3):
        assert built(name, 1).mixing(round).dense().tolist() == [[1.0]]
        assert built(name, 2).mixing(round).dense().tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_the_lists_of_the_tests_are_the_tables() -> None:
    assert set(GRAPHS) == set(TABLE)
    assert set(WEIGHTS) == {OWN, *RULES}


def test_an_unknown_graph_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="graph 'rign' is not known; did you mean 'ring'"):
        graph("rign")
