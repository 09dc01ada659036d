"""The table of rules: names, options, what fits what, and what all rules have in common."""

import re

import pytest
import torch

from tests.simulations.learning.quadratics import complete, models, quadratics, ring, run
from tests.topology.built import built
from weft.simulations.engines.exchange import Here
from weft.simulations.errors import BadOption
from weft.simulations.learning.registry import RULES, fits, rule
from weft.simulations.learning.rule import Rule
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule


def matchings(nodes: int = 8, rounds: int = 50) -> Schedule:
    return built("random_matching", nodes, rounds=rounds)


def push_sum(nodes: int = 8, rounds: int = 50) -> Schedule:
    return built("epidemic", nodes, "push_sum", rounds=rounds)


OPTIONS: dict[str, dict[str, Scalar]] = {"dimat": {"align": "none"}}
"""Points have no units."""


def made(name: str) -> Rule:
    return rule(name, OPTIONS.get(name))


FITTING = dict.fromkeys(RULES, ring) | {
    "push_sum": push_sum,
    "all_reduce": complete,
    "diloco": complete,
    "fed_adam": complete,
    "noloco": matchings,
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_fits_its_schedule_and_runs_with_one_node_and_with_many(name: str) -> None:
    for nodes in (1, 2, 8):
        schedule = FITTING[name](nodes)
        fits(made(name), schedule)
        crew = quadratics(nodes, lr=0.05, alike=True)
        first, *_, last = run(made(name), crew, schedule)
        assert first.accuracies is not None
        assert last.accuracies is not None
        assert last.accuracies.merged > first.accuracies.merged


@pytest.mark.parametrize("name", RULES)
def test_where_nobody_talks_nodes_train_alone(name: str) -> None:
    silent = built("complete", 8, schedule="final_only", rounds=10)
    alone = quadratics(steps=10)
    alone.train(0)
    crew = quadratics()
    moments = run(made(name), crew, silent)
    assert torch.equal(crew.fleet.parameters, alone.fleet.parameters)
    assert {(m.messages, m.bytes, m.drift) for m in moments} == {(0, 0.0, 0.0)}


@pytest.mark.parametrize("name", RULES)
def test_nothing_is_shared_between_two_runs(name: str) -> None:
    used = made(name)
    models(used, quadratics(), FITTING[name](8))
    again = models(used, quadratics(), FITTING[name](8))
    assert torch.equal(again, models(made(name), quadratics(), FITTING[name](8)))


@pytest.mark.parametrize("name", RULES)
def test_the_mean_of_a_rule_changes_nothing(name: str) -> None:
    watched, asked = quadratics(), made(name)
    asked.begin(watched.fleet.parameters)
    watched.train(0)
    before = watched.fleet.parameters.clone()
    first, second = (asked.mean(watched.fleet.parameters, Here()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, watched.fleet.parameters)
    assert torch.allclose(first, before.mean(0), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gosip", {}, "rule 'gosip' is not known; did you mean 'gossip'?"),
        ("choco", {"gama": 1.0}, "rule choco: option 'gama' is not known; did you mean 'gamma'?"),
        ("choco", {"gamma": 0.0}, "rule choco: option gamma: found 0.0, expected above 0, up to 1"),
        ("choco", {"codec": "int9"}, "rule choco: codec 'int9' is not known; did you mean 'int8'?"),
        ("choco", {"codec": "zip"}, "expected int8 | lossless | raw | top_k"),
        ("choco", {"density": 2.0}, "rule choco: option density: found 2.0"),
        ("diloco", {"lr": -1.0}, "rule diloco: option lr: found -1.0, expected above 0"),
        ("diloco", {"nesterov": 1}, "rule diloco: option nesterov: found 1, expected bool"),
        ("noloco", {"momentum": 1.0}, "rule noloco: option momentum: found 1.0"),
        ("fed_adam", {"tau": 0.0}, "rule fed_adam: option tau: found 0.0, expected above 0"),
        ("dimat", {"align": "weight"}, "rule dimat: option align: found 'weight', expected act"),
        ("dimat", {"samples": 0}, "rule dimat: option samples: found 0, expected at least 1"),
        ("push_sum", {"weights": 1.0}, "rule push_sum: option 'weights' is not known"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Scalar], message: str) -> None:
    with pytest.raises(BadOption, match=re.escape(message)):
        rule(name, options)


UNFIT = [
    ("gossip", push_sum(), "found weights push_sum, whose rows need not sum to one"),
    ("push_sum", ring(), "found weights own, expected push_sum"),
    ("gradient_tracking", push_sum(), "found weights push_sum"),
    (
        "gradient_tracking",
        built("star", 8, "uniform", options={"drift": True}),
        "this rule needs the plain mean kept",
    ),
    ("exact_diffusion", built("exponential", 8), "that is not symmetric"),
    ("exact_diffusion", built("ring", 8, schedule="sparse"), "found a mixing matrix that changes"),
    ("choco", built("one_peer_exponential", 8), "found a mixing matrix that changes"),
    ("choco", built("ring", 8, schedule="window"), "found a mixing matrix that changes"),
    ("choco", matchings(), "found a mixing matrix that changes"),
    ("diloco", ring(), "expected all with all"),
    ("all_reduce", built("complete", 8, schedule="sparse"), "expected all with all"),
    ("fed_adam", built("complete", 8, schedule="window"), "expected all with all"),
    ("noloco", ring(), "expected pairs"),
    ("noloco", complete(), "expected pairs"),
    ("noloco", built("ring", 8, schedule="sparse"), "expected pairs"),
    ("noloco", built("complete", 8, schedule="window"), "expected pairs"),
    ("noloco", built("one_peer_exponential", 8), "expected pairs"),
]


@pytest.mark.parametrize(("name", "schedule", "message"), UNFIT)
def test_a_schedule_that_a_rule_cannot_use_is_refused(
    name: str, schedule: Schedule, message: str
) -> None:
    with pytest.raises(BadOption, match=f"^rule {name}: graph .*{message}"):
        fits(rule(name), schedule)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("gossip", built("epidemic", 8, "uniform", options={"drift": True})),
        ("gossip", built("complete", 8, schedule="window")),
        ("gradient_tracking", built("one_peer_exponential", 8)),
        ("gradient_tracking", built("complete", 8, schedule="sparse")),
        ("choco", built("ring", 8, schedule="late")),
        ("choco", built("ring", 8, when={"k": 5})),
        ("exact_diffusion", built("star", 8, "sinkhorn")),
        ("diloco", built("complete", 8, schedule="late")),
        ("diloco", built("ring", 8, schedule="window", when={"pairs_per_node": 0.0})),
        ("noloco", built("complete", 8, schedule="sparse", when={"pairs_per_node": 0.5})),
        ("noloco", built("complete", 9, schedule="sparse", when={"pairs_per_node": 1.0})),
    ],
)
def test_a_schedule_that_will_do_passes(name: str, schedule: Schedule) -> None:
    fits(rule(name), schedule)
