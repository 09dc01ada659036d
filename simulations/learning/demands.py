"""What a rule of learning demands of the schedule under it, each a function that refuses."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from weft.simulations.errors import BadOption
from weft.topology.errors import NotStochastic
from weft.topology.graphs import Complete
from weft.topology.matrices import Mixing, check_stochastic
from weft.topology.schedules import Schedule
from weft.topology.talk import Everybody, OnGraph, Pairs, Silent, Talk

SAMPLED_ROUNDS = 32
"""How many matrices of each manner of talking are looked at."""


def averages(schedule: Schedule) -> None:
    """Rows of W sum to one.

    Raises:
        BadOption: the weights are push_sum.
    """
    if schedule.push_sum:
        raise BadOption(
            f"{schedule.params.title}: found weights push_sum, whose rows need not sum to one, "
            "expected others; take the rule push_sum, or weights metropolis or uniform"
        )


def push_sum_weights(schedule: Schedule) -> None:
    """Columns of W sum to one, and nodes carry weights.

    Raises:
        BadOption: the weights are others.
    """
    if not schedule.push_sum:
        raise BadOption(
            f"{schedule.params.title}: found weights {schedule.params.weights}, expected push_sum; "
            "take weights push_sum, or the rule gossip"
        )


def keeps_the_mean(schedule: Schedule) -> None:
    """Rows and columns of W sum to one.

    Raises:
        BadOption: some sum does not, in a period or in the rounds looked at.
    """
    averages(schedule)
    kept = np.full(schedule.nodes, 1.0 / schedule.nodes)
    for mixing in _mixings(schedule):
        try:
            check_stochastic(mixing, schedule.params.title, kept=kept, columns=False)
        except NotStochastic as error:
            raise BadOption(f"{error}; this rule needs the plain mean kept") from None


def one_symmetric(schedule: Schedule) -> None:
    """One W in all rounds that mix, and it equals its transpose.

    Raises:
        BadOption: W changes, or is not symmetric.
    """
    keeps_the_mean(schedule)
    static = schedule.graph.period(schedule.nodes) == 1
    allowed: list[set[Talk]] = [{Everybody()}, {OnGraph(0)}] if static else [{Everybody()}]
    if not any(_manners(schedule) <= manners for manners in allowed):
        raise BadOption(
            f"{schedule.params.title}: found a mixing matrix that changes, expected the same in "
            "every round that mixes; take a static graph and a schedule that uses all its edges"
        )
    if not all(mixing.is_symmetric for mixing in _mixings(schedule)):
        raise BadOption(
            f"{schedule.params.title}: found a mixing matrix that is not symmetric, expected one "
            "that is; take an undirected graph with metropolis weights"
        )


def everybody(schedule: Schedule) -> None:
    """All with all, in every round that mixes.

    Raises:
        BadOption: only some with some.
    """
    averages(schedule)
    complete = isinstance(schedule.graph, Complete) or schedule.nodes <= 2
    wanted: set[Talk] = {OnGraph(0), Everybody()} if complete else {Everybody()}
    if not _manners(schedule) <= wanted:
        raise BadOption(
            f"{schedule.params.title}: found rounds in which only some talk, expected all with "
            "all; take the graph complete with the schedule every, late or window"
        )


def pairs(schedule: Schedule) -> None:
    """Every node with one other at most, half and half.

    Raises:
        BadOption: a node takes from more, or from one that does not take from it.
    """
    keeps_the_mean(schedule)
    matched = all(_is_matching(mixing) for mixing in _mixings(schedule))
    # Pairs along the edges of a graph are drawn one by one: a node may be in several.
    anywhere = isinstance(schedule.graph, Complete)
    if not matched or (not anywhere and any(isinstance(t, Pairs) for t in _manners(schedule))):
        raise BadOption(
            f"{schedule.params.title}: found nodes that talk to others than one partner, expected "
            "pairs; take the graph random_matching, or the schedule sparse with pairs_per_node up "
            "to 1 over the graph complete"
        )


def _is_matching(mixing: Mixing) -> bool:
    between = mixing.between
    taken = np.bincount(mixing.receivers[between], minlength=mixing.nodes)
    halves = bool((mixing.weights[between] == 0.5).all())
    return halves and taken.max(initial=0) <= 1 and mixing.is_symmetric


def _mixings(schedule: Schedule) -> Iterator[Mixing]:
    """Matrices that stand for all those that mix: the first ones of each manner of talking."""
    seen: Counter[Talk] = Counter()
    for round in range(schedule.rounds):
        manner = _manner(schedule.talk(round))
        seen[manner] += 1
        if not isinstance(manner, Silent) and seen[manner] <= SAMPLED_ROUNDS:
            yield schedule.mixing(round)


def _manners(schedule: Schedule) -> set[Talk]:
    """The ways in which nodes talk in the run."""
    return {_manner(schedule.talk(round)) for round in range(schedule.rounds)} - {Silent()}


def _manner(talk: Talk) -> Talk:
    """Steps of the graph count as one."""
    return OnGraph(0) if isinstance(talk, OnGraph) else talk
