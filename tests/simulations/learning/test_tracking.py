"""Gradient tracking and exact diffusion: sums that stay, and the optimum that gossip misses."""

from dataclasses import replace

import pytest
import torch

from tests.simulations.learning.quadratics import error, matrix, models, quadratics, ring, run
from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.learning.rule import Gossip, Rule
from weft.simulations.learning.tracking import ExactDiffusion, GradientTracking

Corrected = GradientTracking | ExactDiffusion
RULES = [GradientTracking(), GradientTracking(diging=True), ExactDiffusion()]


@pytest.mark.parametrize("diging", [True, False])
@pytest.mark.parametrize("graph", ["ring", "one_peer_exponential"])
def test_one_step_a_round_is_diging_or_its_other_order(graph: str, diging: bool) -> None:
    crew, schedule = quadratics(), built(graph, 8, rounds=60)
    x = crew.fleet.parameters.clone()

    def gradient(at: torch.Tensor) -> torch.Tensor:
        return crew.curvatures * (at - crew.optima)

    y = gradient(x)
    for round in range(60):
        mixing = matrix(schedule, round)
        before = gradient(x)
        x = mixing @ x - crew.lr * y if diging else mixing @ (x - crew.lr * y)
        y = mixing @ y + gradient(x) - before
    assert error(models(GradientTracking(diging=diging), crew, schedule), x) < 1e-12


def test_tracked_directions_sum_to_the_pseudo_gradients() -> None:
    crew, rule, schedule = quadratics(steps=3), GradientTracking(diging=True), ring()
    rows = crew.fleet.parameters
    rule.begin(rows)
    for round in range(50):
        started, corrections = rows.clone(), rule.corrections.clone()
        crew.train(round)
        gradients = started - rows
        rule.communicate(rows, schedule.mixing(round), Here())
        followed = matrix(schedule, round) @ started - rows
        assert error(followed, corrections + gradients) < 1e-12
        assert error(followed.sum(0), gradients.sum(0)) < 1e-12


@pytest.mark.parametrize("rule", RULES)
def test_corrections_sum_to_zero(rule: Corrected) -> None:
    models(rule, quadratics(steps=2), ring())
    assert rule.corrections.sum(0).abs().max() < 1e-12
    assert rule.corrections.abs().max() > 0.1


@pytest.mark.parametrize(
    ("rule", "graph"),
    [
        (GradientTracking(), "ring"),
        (GradientTracking(), "one_peer_exponential"),
        (GradientTracking(diging=True), "ring"),
        (ExactDiffusion(), "ring"),
        (ExactDiffusion(), "star"),
    ],
)
def test_the_best_of_all_at_a_constant_rate_where_gossip_stops_short(
    rule: Rule, graph: str
) -> None:
    schedule = built(graph, 8, rounds=600)
    corrected, plain = quadratics(), quadratics()
    assert error(models(rule, corrected, schedule), corrected.best) < 1e-8
    assert error(models(Gossip(), plain, schedule), plain.best) > 0.01


def test_exact_diffusion_as_in_the_paper() -> None:
    crew = quadratics()
    half = (torch.eye(8, dtype=torch.float64) + matrix(ring(), 0)) / 2
    x = adapted = crew.fleet.parameters.clone()
    for _ in range(50):
        before, adapted = adapted, x - crew.lr * crew.curvatures * (x - crew.optima)
        x = half @ (adapted + x - before)
    assert error(models(ExactDiffusion(), crew, ring()), x) < 1e-12


@pytest.mark.parametrize("rule", RULES)
def test_silent_rounds_count_as_more_steps(rule: Corrected) -> None:
    sparse = models(rule, quadratics(), built("ring", 8, when={"k": 3}, rounds=60))
    steps = models(replace(rule), quadratics(steps=3), ring(rounds=20))
    assert error(sparse, steps) < 1e-12


def test_tracking_moves_twice_what_exact_diffusion_does() -> None:
    tracked, diffused = (
        run(rule, quadratics(), ring(rounds=1))[0]
        for rule in (GradientTracking(), ExactDiffusion())
    )
    assert (diffused.messages, diffused.bytes) == (16, 16 * 4 * 5)
    assert (tracked.messages, tracked.bytes) == (16, 2 * diffused.bytes)


@pytest.mark.parametrize("rule", RULES)
def test_the_mean_is_kept(rule: Rule) -> None:
    assert max(moment.drift for moment in run(rule, quadratics(steps=2), ring())) < 1e-12
