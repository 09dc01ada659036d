"""Sparse gossip and one merge of all at the end: the laws of it, through whole studies."""

import math

import pytest
import torch
from torch import Tensor

from tests.simulations.learning.quadratics import (
    complete,
    error,
    models,
    moments,
    quadratics,
    ring,
    run,
)
from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.learning.rule import Gossip
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule
from weft.topology.spectrum import gap_over_period


def sparse(expected: float, nodes: int = 8, rounds: int = 100, *, one_way: bool = True) -> Schedule:
    when: dict[str, Scalar] = {"pairs_per_node": expected, "one_way": one_way}
    weights = "uniform" if one_way else "own"
    return built("complete", nodes, weights, "sparse", when=when, rounds=rounds)


def test_no_peers_a_round_is_no_messages() -> None:
    seen = run(Gossip(), quadratics(), sparse(0.0))
    assert {(moment.messages, moment.bytes) for moment in seen} == {(0, 0.0)}


@pytest.mark.parametrize("expected", [0.2, 0.7])
def test_so_many_messages_are_expected_a_round(expected: float) -> None:
    counts = [m.messages for m in run(Gossip(), quadratics(), sparse(expected, rounds=500))]
    deviation = math.sqrt(8 * expected * (1 - expected) / 500)
    assert abs(sum(counts) / 500 - 8 * expected) < 4 * deviation
    assert len(set(counts)) > 3


@pytest.mark.parametrize("expected", [1.0, 3.0])
def test_a_whole_number_of_peers_is_met_exactly(expected: float) -> None:
    counts = {moment.messages for moment in run(Gossip(), quadratics(), sparse(expected))}
    assert counts == {int(8 * expected)}


@pytest.mark.parametrize("one_way", [True, False])
def test_all_others_are_the_complete_graph(one_way: bool) -> None:
    everybody = models(Gossip(), quadratics(), sparse(7.0, one_way=one_way))
    assert error(everybody, models(Gossip(), quadratics(), complete(rounds=100))) < 1e-12


def test_a_window_is_dense_for_its_rounds_and_sparse_again() -> None:
    when: dict[str, Scalar] = {"start": 50, "length": 10}
    seen = run(Gossip(), quadratics(), built("complete", 8, schedule="window", when=when))
    dense = [moment.round for moment in seen if moment.messages == 8 * 7]
    assert dense == list(range(50, 60))
    assert max(m.messages for m in seen if m.round not in dense) <= 8 // 2 * 2
    assert all(m.mixed < 1e-12 for m in seen if m.round in dense)
    assert seen[-1].mixed > 0.01


@pytest.mark.parametrize("rounds", [10, 40])
def test_gossip_alone_contracts_by_the_gap(rounds: int) -> None:
    schedule = ring(rounds=rounds)
    seen = run(Gossip(), quadratics(lr=0.0, apart=True), schedule)
    left = 1 - gap_over_period(schedule)
    for moment in seen:
        assert moment.mixed <= left ** (moment.round + 1) * seen[0].trained * (1 + 1e-9)


def test_one_peer_exponential_is_exact_after_its_period() -> None:
    seen = run(Gossip(), quadratics(lr=0.0, apart=True), built("one_peer_exponential", 8, rounds=3))
    assert [moment.mixed > 1e-3 for moment in seen] == [True, True, False]
    assert seen[-1].mixed < 1e-12


def test_pulls_move_the_mean_and_the_study_says_how_far() -> None:
    crew = quadratics(lr=0.0, apart=True)
    moved = start = crew.fleet.parameters.mean(0)
    for moment in moments(Gossip(), crew, sparse(0.5, rounds=400)):
        mean = crew.fleet.parameters.mean(0)
        assert abs(moment.drift - (mean - moved).norm().item()) < 1e-12
        moved = mean
    assert error(crew.fleet.parameters, moved) < 1e-6
    assert error(moved, start) > 0.01


@pytest.mark.parametrize("schedule", [ring(), sparse(0.5, one_way=False), complete()])
def test_where_nothing_drifts_none_is_reported(schedule: Schedule) -> None:
    assert max(moment.drift for moment in run(Gossip(), quadratics(), schedule)) < 1e-12


def test_the_merged_model_is_seen_and_nothing_is_touched() -> None:
    watched, unwatched = quadratics(), quadratics()
    generator = torch.random.get_rng_state()
    seen = run(Gossip(), watched, ring())
    rows, mixing = unwatched.fleet.parameters, ring().mixing(0)
    for round in range(50):
        unwatched.train(round)
        Gossip().communicate(rows, mixing, Here())
    assert torch.equal(watched.fleet.parameters, rows)
    assert torch.equal(generator, torch.random.get_rng_state())
    assert seen[-1].accuracies is not None
    assert seen[-1].accuracies.merged == unwatched.score(rows.mean(0))


@pytest.mark.parametrize("schedule", [sparse(0.0), sparse(0.2, one_way=False), ring()])
def test_a_merge_of_parabolas_is_no_worse_than_their_mean(schedule: Schedule) -> None:
    crew = quadratics(steps=5, alike=True)
    rows = crew.fleet.parameters
    for _ in moments(Gossip(), crew, schedule):
        local = sum(crew.loss(model) for model in rows) / 8
        assert crew.loss(rows.mean(0)) < local


def descend(rows: Tensor, tilts: Tensor) -> None:
    """A gradient step of (x^2 - 1)^2 / 4 - tilt x: basins at -1 and 1, a ridge at 0."""
    rows -= 0.1 * (rows**3 - rows - tilts)


@pytest.mark.parametrize(("expected", "lost"), [(0.0, True), (0.2, False), (0.5, False)])
def test_two_basins_merge_only_where_nodes_talked(expected: float, lost: bool) -> None:
    """Six nodes lean to the right, four to the left: alone they part, together they go right."""
    tilts = torch.tensor([[0.1]] * 6 + [[-0.1]] * 4, dtype=torch.float64)
    rows, schedule = torch.zeros_like(tilts), sparse(expected, 10, 400, one_way=False)
    for round in range(400):
        descend(rows, tilts)
        Gossip().communicate(rows, schedule.mixing(round), Here())
    merged = rows.mean(0).item()
    ridge = (merged**2 - 1) ** 2 / 4
    each = ((rows**2 - 1) ** 2 / 4).mean().item()
    assert each < 0.02
    assert (ridge > 10 * each) == lost
