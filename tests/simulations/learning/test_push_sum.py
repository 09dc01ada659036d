"""Push-sum: what is kept, and where z goes."""

import torch

from tests.simulations.learning.quadratics import error, matrix, models, quadratics, ring, run
from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.learning.push_sum import PushSum
from weft.simulations.learning.rule import Gossip
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule

DIRECTED = "0>1 1>2 2>3 3>4 4>5 5>0 0>3 0>4 2>0"


def one_way(rounds: int = 200) -> Schedule:
    """A strongly connected directed graph that is not regular."""
    pairs = [edge.replace(">", "-") for edge in DIRECTED.split()]
    options: dict[str, Scalar] = {"listed": " ".join(pairs), "directed": True}
    return built("file", 6, "push_sum", options=options, rounds=rounds)


def test_z_finds_the_mean_and_x_does_not() -> None:
    crew, rule = quadratics(6, lr=0.0, apart=True), PushSum()
    mean = crew.fleet.parameters.mean(0)
    z = models(rule, crew, one_way())
    assert error(z, mean) < 1e-12
    assert error(z * rule.weights, mean) > 0.1


def test_weights_stay_above_zero_and_n_in_sum_and_the_mean_is_kept() -> None:
    crew, rule, schedule = quadratics(6, lr=0.0, apart=True), PushSum(), one_way()
    rows = crew.fleet.parameters
    mean = rows.mean(0)
    rule.begin(rows)
    for round in range(100):
        rule.communicate(rows, schedule.mixing(round), Here())
        assert abs(rule.weights.sum().item() - 6) < 1e-12
        assert (rule.weights > 0).all()
        assert error(rule.mean(rows, Here()), mean) < 1e-12


def test_training_moves_x_as_it_moved_z() -> None:
    """Against Algorithm 1 written out, with different senders each round."""
    crew = quadratics(8, steps=3)
    schedule = built("epidemic", 8, "push_sum", rounds=30)
    z = crew.fleet.parameters.clone()
    x, w = z.clone(), torch.ones(8, 1, dtype=torch.float64)
    for round in range(30):
        trained = z.clone()
        for _ in range(3):
            trained -= crew.lr * crew.curvatures * (trained - crew.optima)
        x, w = matrix(schedule, round) @ (x + trained - z), matrix(schedule, round) @ w
        z = x / w
    assert error(models(PushSum(), crew, schedule), z) < 1e-12


def test_the_exchange_moves_no_mean_that_is_seen() -> None:
    moments = run(PushSum(), quadratics(6), one_way(30))
    assert max(moment.drift for moment in moments) < 1e-12


def test_it_goes_to_the_best_of_all_where_plain_means_go_to_the_hub_s() -> None:
    pushed, plain = (quadratics(8, lr=0.02) for _ in range(2))
    star = built("star", 8, "push_sum", rounds=400)
    drifting = built("star", 8, "uniform", options={"drift": True}, rounds=400)
    found = models(PushSum(), pushed, star).mean(0)
    biased = models(Gossip(), plain, drifting).mean(0)
    assert error(found, pushed.best) < 0.1 < 0.5 < error(biased, plain.best)


def test_where_columns_and_rows_sum_to_one_it_is_gossip() -> None:
    pushed = models(PushSum(), quadratics(), built("ring", 8, "push_sum", rounds=50))
    assert error(pushed, models(Gossip(), quadratics(), ring())) < 1e-12


def test_a_message_is_a_model_and_a_weight() -> None:
    moment = run(PushSum(), quadratics(6, 5), one_way(1))[0]
    assert moment.messages == 9
    assert moment.bytes == 9 * (4 * 5 + 8)
