"""Outer steps over the mean of all: what they are by other names, and numbers by hand."""

import pytest
import torch
from torch import Tensor

from tests.simulations.learning.quadratics import (
    complete,
    error,
    matrix,
    models,
    quadratics,
    run,
)
from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.errors import BadModel
from weft.simulations.learning.diloco import DiLoCo, FedAdam
from weft.simulations.learning.noloco import NoLoCo
from weft.simulations.learning.outer import AllReduce
from weft.simulations.learning.rule import Gossip, Rule
from weft.topology.matrices import Mixing

PLAIN = DiLoCo(lr=1.0, momentum=0.0)
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-6)]


@pytest.mark.parametrize("rule", [PLAIN, AllReduce()])
@pytest.mark.parametrize(("dtype", "close"), PRECISIONS)
def test_one_step_a_round_is_synchronous_sgd(rule: Rule, dtype: torch.dtype, close: float) -> None:
    crew = quadratics(dtype=dtype)
    model = torch.zeros(5, dtype=torch.float64)
    for _ in range(50):
        model -= crew.lr * (crew.curvatures * (model - crew.optima)).mean(0)
    assert error(models(rule, crew, complete()), model) < close


@pytest.mark.parametrize("rule", [PLAIN, AllReduce()])
@pytest.mark.parametrize(("dtype", "close"), PRECISIONS)
def test_more_steps_a_round_are_fed_avg(rule: Rule, dtype: torch.dtype, close: float) -> None:
    averaged = models(rule, quadratics(steps=7, dtype=dtype), complete())
    gossip = models(Gossip(), quadratics(steps=7, dtype=dtype), complete())
    assert error(averaged, gossip) < close


def steps_of(rule: Rule, means: list[float]) -> list[float]:
    """Where a rule goes from zero where nodes train to models of these means."""
    rows, mixing = torch.zeros(2, 1, dtype=torch.float64), complete(2).mixing(0)
    rule.begin(rows)
    found = []
    for mean in means:
        rows.copy_(torch.tensor([[mean - 1], [mean + 1]]))
        rule.communicate(rows, mixing, Here())
        found.append(rows[0].item())
    return found


def test_nesterov_by_hand() -> None:
    # D = -1, m = -1, step 0.5 (1 + 0.5); D = 0.75 - 2, m = -0.5 - 1.25, step 0.5 (1.25 + 0.875).
    found = steps_of(DiLoCo(lr=0.5, momentum=0.5), [1.0, 2.0])
    assert found == pytest.approx([0.75, 0.75 + 0.5 * (1.25 + 0.875)])


def test_heavy_ball_by_hand() -> None:
    found = steps_of(DiLoCo(lr=0.5, momentum=0.5, nesterov=False), [1.0, 2.0])
    assert found == pytest.approx([0.5, 0.5 + 0.5 * (0.5 + 1.5)])


def test_fed_adam_by_hand() -> None:
    rule = FedAdam(lr=0.1, beta1=0.5, beta2=0.75, tau=1.0)
    first = 0.1 * 0.5 / (1.0**0.5 + 1.0)
    gradient = first - 3.0
    second = 0.1 * (0.25 - 0.5 * gradient) / ((0.75 + 0.25 * gradient**2) ** 0.5 + 1.0)
    assert steps_of(rule, [1.0, 3.0]) == pytest.approx([first, first + second])


@pytest.mark.parametrize("rule", [DiLoCo(), FedAdam(), AllReduce()])
def test_the_outer_optimizer_moves_only_where_the_schedule_mixes(rule: Rule) -> None:
    sparse = models(rule, quadratics(), complete(rounds=30, k=3))
    steps = models(type(rule)(), quadratics(steps=3), complete(rounds=10))
    assert error(sparse, steps) < 1e-12


@pytest.mark.parametrize("rule", [DiLoCo(), FedAdam()])
def test_it_starts_from_one_model(rule: Rule) -> None:
    with pytest.raises(BadModel, match="different initial models, expected one for all"):
        rule.begin(quadratics(apart=True).fleet.parameters)


def test_with_one_curvature_it_finds_the_best_of_all() -> None:
    crew = quadratics(steps=5, alike=True)
    assert error(models(DiLoCo(), crew, complete(rounds=300)), crew.best) < 1e-9


@pytest.mark.parametrize("rule", [DiLoCo(), FedAdam(), AllReduce()])
def test_an_all_reduce_moves_about_two_models_a_node(rule: Rule) -> None:
    silent, mixing = run(rule, quadratics(), complete(rounds=2, k=2))
    assert (silent.messages, silent.bytes) == (0, 0)
    assert (mixing.messages, mixing.bytes) == (2 * 7, 2 * 7 * 4 * 5)


@pytest.mark.parametrize(("dtype", "close"), PRECISIONS)
def test_noloco_among_all_is_heavy_ball_diloco(dtype: torch.dtype, close: float) -> None:
    pairs, everybody = NoLoCo(lr=0.7, momentum=0.5), DiLoCo(momentum=0.5, nesterov=False)
    by_pairs = models(pairs, quadratics(steps=4, dtype=dtype), complete())
    by_all = models(everybody, quadratics(steps=4, dtype=dtype), complete())
    assert error(by_pairs, by_all) < close


def test_noloco_is_two_means_over_each_pair() -> None:
    """Against the update with its means of deltas and of slow models apart, and odd nodes."""
    crew, schedule = quadratics(7, steps=4), built("random_matching", 7, rounds=40)
    slow = crew.fleet.parameters.clone()
    momentum = torch.zeros_like(slow)
    for round in range(40):
        mean = matrix(schedule, round)
        trained = slow.clone()
        for _ in range(4):
            trained -= crew.lr * crew.curvatures * (trained - crew.optima)
        momentum = 0.5 * momentum + 0.7 * (mean @ (trained - slow)) + 0.7 * (mean @ slow - slow)
        slow = slow + momentum
    assert error(models(NoLoCo(lr=0.7, momentum=0.5), crew, schedule), slow) < 1e-12


def test_noloco_keeps_nodes_together_and_moves_a_model_a_node() -> None:
    crew = quadratics(steps=4, alike=True)
    moments = run(NoLoCo(), crew, built("random_matching", 8, rounds=300))
    assert moments[-1].mixed < 0.5 * float((crew.optima - crew.best).norm(dim=1).mean())
    assert error(crew.fleet.parameters.mean(0), crew.best) < 1e-6
    assert moments[-1].messages == 8
    assert moments[-1].bytes == 8 * 4 * 5


def test_the_single_merge_is_the_mean_and_again_the_mean() -> None:
    rows = quadratics(apart=True).fleet.parameters
    mean, mixing = rows.mean(0), complete().mixing(0)
    for _ in range(2):
        merged(rows, mixing)
        assert error(rows, mean) < 1e-15


def merged(rows: Tensor, mixing: Mixing) -> None:
    AllReduce().communicate(rows, mixing, Here())
