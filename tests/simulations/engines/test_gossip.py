"""Gossip of numbers against dense products, invariants, and figures by hand."""

import math

import numpy as np
import pytest
import torch

from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.failures import Failures, Partition
from weft.simulations.engines.gossip import (
    GossipStudy,
    Holding,
    Seen,
    arriving,
    drawn_values,
)
from weft.simulations.errors import BadOption
from weft.topology.edges import Float64
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule

PULLS: dict[str, Scalar] = {"pairs_per_node": 1.0, "one_way": True}
ALL = Failures(loss=0.2, churn=0.1, partitions=(Partition(start=3, stop=5),))


def study(schedule: Schedule, size: int = 1, failures: Failures | None = None) -> GossipStudy:
    return GossipStudy(
        schedule=schedule,
        values=drawn_values(schedule.nodes, size, 0),
        message_bytes=8.0,
        failures=failures or Failures(),
    )


def by_hand(gossip: GossipStudy) -> tuple[list[float], list[int], Float64]:
    """Distances, messages and last models, by dense products, node by node."""
    schedule, nodes = gossip.schedule, gossip.schedule.nodes
    held, mass = gossip.values.copy(), np.ones(nodes)
    distances, messages = [], []
    for round in range(schedule.rounds):
        mixing = schedule.mixing(round)
        dense = mixing.dense()
        lost = np.zeros((nodes, nodes), dtype=bool)
        lost[mixing.receivers, mixing.senders] = gossip.failures.lost(mixing, round)
        for receiver, sender in np.argwhere(lost):
            keeper = sender if schedule.push_sum else receiver
            dense[keeper, keeper] += dense[receiver, sender]
            dense[receiver, sender] = 0
        messages.append(int(np.count_nonzero(dense - np.diag(np.diag(dense)))))
        held, mass = dense @ held, dense @ mass if schedule.push_sum else mass
        models = held / mass[:, None]
        apart = models - held.mean(axis=0)
        distances.append(math.sqrt(float(np.square(apart).sum(axis=1).mean())))
    return distances, messages, models


SCHEDULES = {
    "ring": built("ring", 24, rounds=8),
    "exponential": built("exponential", 24, rounds=8),
    "one_peer": built("one_peer_exponential", 24, rounds=8),
    "base_k": built("base_k", 24, rounds=8),
    "matching": built("random_matching", 24, rounds=8),
    "sparse": built("complete", 24, schedule="sparse", rounds=8),
    "windows": built("ring", 24, schedule="window", rounds=8),
    "every third": built("ring", 24, schedule="every", when={"k": 3}, rounds=8),
    "pulls": built("complete", 24, "uniform", "sparse", when=PULLS, rounds=8),
    "push_sum": built("exponential", 24, "push_sum", rounds=8),
    "push_sum pulls": built("complete", 24, "push_sum", "sparse", when=PULLS, rounds=8),
}


@pytest.mark.parametrize("failures", [Failures(), ALL, Failures(loss=0.3, one_sided=True)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_study_is_the_dense_product(name: str, failures: Failures) -> None:
    gossip = study(SCHEDULES[name], size=3, failures=failures)
    distances, messages, _ = by_hand(gossip)
    moments = list(gossip.moments())
    assert [moment.mixed for moment in moments] == pytest.approx(distances, rel=1e-11, abs=1e-15)
    assert [moment.messages for moment in moments] == messages
    assert [moment.bytes for moment in moments] == [8.0 * count for count in messages]
    assert [moment.trained for moment in moments[1:]] == [moment.mixed for moment in moments[:-1]]


def test_two_runs_are_equal_to_the_bit_and_the_values_stay() -> None:
    gossip = study(SCHEDULES["sparse"], failures=ALL)
    first = list(gossip.rounds())
    assert repr(first) == repr(list(gossip.rounds()))
    assert np.array_equal(gossip.values, drawn_values(24, 1, 0))


def test_a_ring_of_three_agrees_at_once() -> None:
    gossip = GossipStudy(
        schedule=built("ring", 3, rounds=2), values=np.array([[0.0], [3.0], [6.0]])
    )
    first, second = gossip.moments()
    assert (first.trained, first.messages) == (math.sqrt(6), 6)
    assert first.mixed == pytest.approx(0, abs=1e-15)
    assert second.trained == first.mixed
    assert math.isnan(first.loss)
    assert first.accuracies is None


def last(schedule: Schedule, failures: Failures | None = None) -> Seen:
    return list(study(schedule, failures=failures).rounds())[-1]


def test_the_mean_stays_for_a_thousand_rounds() -> None:
    for graph in ("ring", "exponential", "random_matching", "star"):
        seen = last(built(graph, 50, rounds=1000))
        assert seen.drifted < 1e-12
        assert seen.moment.drift < 1e-15


def test_the_mean_drifts_where_pulls_are_rows_only_and_is_reported() -> None:
    schedule = built("complete", 50, "uniform", "sparse", when=PULLS, rounds=100)
    gossip = study(schedule)
    rounds = list(gossip.rounds())
    _, _, models = by_hand(gossip)
    drifted = abs(models.mean() - gossip.values.mean())
    assert rounds[-1].drifted == pytest.approx(drifted, rel=1e-9)
    assert rounds[-1].drifted > 0.01
    assert max(seen.moment.drift for seen in rounds) > 0.01


def test_loss_drifts_where_one_end_alone_knows_and_not_where_both_do() -> None:
    ring = built("ring", 50, rounds=100)
    assert last(ring, Failures(loss=0.1)).drifted < 1e-13
    assert last(ring, Failures(loss=0.1, one_sided=True)).drifted > 1e-3


@pytest.mark.parametrize("failures", [Failures(), Failures(loss=0.3, churn=0.1)])
@pytest.mark.parametrize("graph", ["exponential", "star"])
def test_push_sum_keeps_sums_and_comes_to_the_true_mean(graph: str, failures: Failures) -> None:
    schedule = built(graph, 30, "push_sum", rounds=400)
    values = drawn_values(30, 1, 0)
    holding = Holding.of(values, weighted=True)
    for round in range(schedule.rounds):
        mixing = arriving(schedule.mixing(round), failures, round, columns=True)
        holding = holding.mixed(mixing.sparse())
        assert holding.weights is not None
        assert holding.weights.sum() == pytest.approx(30, rel=1e-12)
        assert holding.lightest > 0
    assert holding.models == pytest.approx(np.full((30, 1), values.mean()), abs=1e-9)
    seen = last(schedule, failures)
    assert seen.drifted < 1e-12
    assert (seen.lightest < 0.9) == (seen.heaviest > 1.1) == (graph == "star" or failures.any)


def test_a_network_in_two_parts_agrees_within_them_only() -> None:
    schedule = built("complete", 10, rounds=1)
    failures = Failures(partitions=(Partition(start=0, stop=1),))
    gossip = study(schedule, failures=failures)
    halves = gossip.values.reshape(2, 5).mean(axis=1)
    mixed = arriving(schedule.mixing(0), failures, 0, columns=False).dense() @ gossip.values
    # Metropolis over ten: what crosses the cut goes to oneself, a tenth to each of one's part.
    expected = 0.5 * gossip.values + 0.5 * np.repeat(halves, 5)[:, None]
    assert mixed == pytest.approx(expected)
    assert last(schedule, failures).moment.messages == 2 * 5 * 4


def test_a_schedule_that_never_talks_moves_nothing() -> None:
    seen = last(built("ring", 12, schedule="final_only", rounds=5))
    assert (seen.moment.messages, seen.moment.bytes, seen.drifted) == (0, 0.0, 0.0)
    assert seen.moment.mixed == seen.moment.trained > 0


def test_gossip_of_numbers_is_what_an_engine_of_models_does() -> None:
    schedule = built("exponential", 16, rounds=6)
    values = drawn_values(16, 40, 3).astype(np.float32).astype(np.float64)
    rows = torch.from_numpy(values).float()
    for round in range(schedule.rounds):
        rows = Here().mixed(rows, schedule.mixing(round))
    moments = list(GossipStudy(schedule=schedule, values=values).moments())
    apart = rows.double() - rows.double().mean(dim=0)
    distance = math.sqrt(apart.square().sum().item() / 16)
    assert distance == pytest.approx(moments[-1].mixed, rel=1e-4)


def test_values_are_drawn_alike_everywhere_with_mean_zero_and_variance_one() -> None:
    values = drawn_values(20_000, 2, 5)
    assert np.array_equal(values, drawn_values(20_000, 2, 5))
    assert not np.array_equal(values, drawn_values(20_000, 2, 6))
    assert values.mean(axis=0) == pytest.approx(np.zeros(2), abs=0.03)
    assert values.var(axis=0) == pytest.approx(np.ones(2), abs=0.03)


@pytest.mark.parametrize("shape", [(5, 1), (6,)])
def test_values_of_other_nodes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadOption, match=r"^values: .* expected a row for each of 6 nodes$"):
        GossipStudy(schedule=built("ring", 6), values=np.zeros(shape))


def test_a_hundred_thousand_nodes_take_seconds() -> None:
    schedule = built("exponential", 100_000, rounds=5)
    moments = list(study(schedule).moments())
    assert moments[-1].messages == 1_700_000
    assert moments[-1].mixed < 0.05 * moments[0].trained
