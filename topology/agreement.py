"""What a schedule costs and how long it takes: rounds to agreement, degrees, messages."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from weft.topology.draws import Source, Stream
from weft.topology.edges import Float64
from weft.topology.graphs import Complete
from weft.topology.matrices import Mixing
from weft.topology.schedules import Schedule
from weft.topology.sparse import pair_probability
from weft.topology.spectrum import circulant_moduli, spectral_gap
from weft.topology.talk import Pairs
from weft.topology.timings import Every, Sparse

if TYPE_CHECKING:
    from scipy.sparse import csr_array

EXACT = 256
"""Up to so many nodes the worst of all starts is followed, not a sample of them."""

PROBES = 16
SILENCE = -1
ROUNDS = 20_000
PATIENCE = 1000
"""Rounds after which `rounds_to_agreement` looks whether there is hope."""

WORK = 5e8
"""Multiplications after which `rounds_to_agreement` gives up."""

SAMPLES = 256


def rounds_to_agreement(schedule: Schedule, tolerance: float = 1e-3) -> int | None:
    """Rounds after which the consensus distance has shrunk to a share, whatever the start.

    The least t such that |x_t - mean_t| <= tolerance |x_0 - mean_0| for every x_0
    (z = x / w for push-sum), counted from round 0 with those in which nobody talks.
    From the gap where one symmetric or circulant W is all there is; else by
    following the product, for up to 256 nodes from all starts, beyond from 16
    random ones, which is a lower bound.

    Args:
        schedule: of any number of nodes.
        tolerance: the share, between 0 and 1.

    Returns:
        The rounds; 0 for one node; None where it takes longer than the run (windows
        and late schedules), than 20 000 rounds, or than is worth computing.
    """
    if schedule.nodes == 1:
        return 0
    if schedule.silent:
        return None
    constant = schedule.constant
    if constant is not None and isinstance(schedule.timing, Every) and _is_normal(constant):
        mixes = _rounds_from_gap(spectral_gap(constant), tolerance)
        return None if mixes is None else mixes * schedule.timing.k
    for round, distance in enumerate(distances(schedule, tolerance), start=1):
        if distance <= tolerance:
            return round
        if _is_hopeless(schedule, tolerance, round, distance):
            return None
    return None


def distances(schedule: Schedule, exact_below: float = math.inf) -> Iterator[float]:
    """The consensus distance after each round, as a share of that at the start.

    For up to 256 nodes the largest over all starts; beyond, of 16 random ones. Where
    it is surely above `exact_below`, an upper bound is given instead, which is
    cheaper: the root of the sum of squares.
    """
    nodes = schedule.nodes
    held, mass = _starts(nodes), np.ones((nodes, 1))
    norms = np.linalg.norm(held, axis=0)
    matrices = _matrices(schedule)
    work = 0.0
    for round in range(schedule.rounds if schedule.timing.finite else ROUNDS):
        matrix = matrices(round)
        held = np.asarray(matrix @ held, dtype=np.float64)
        mass = np.asarray(matrix @ mass, dtype=np.float64)
        work += float(matrix.nnz + nodes) * held.shape[1]
        apart = held / mass if schedule.push_sum else held
        apart = apart - apart.mean(axis=0)
        if nodes > EXACT:
            yield float((np.linalg.norm(apart, axis=0) / norms).max())
        else:
            yield _largest(apart, exact_below)
        if work > WORK:
            return


def degrees(schedule: Schedule) -> list[int]:
    """Of each node, the most neighbours that it takes from in a round.

    Over the period, or over 256 rounds where there is none.
    """
    most = np.zeros(schedule.nodes, dtype=np.int64)
    for mixing in _mixings(schedule, _rounds(schedule)):
        found = np.bincount(mixing.receivers[mixing.between], minlength=schedule.nodes)
        most = np.maximum(most, found)
    return [int(degree) for degree in most]


def messages_per_round(schedule: Schedule) -> float:
    """Models that move in a round, on average.

    Over the period or the run; expected, where sparse gossip draws them; over 256
    rounds otherwise.
    """
    if schedule.nodes == 1:
        return 0.0
    if isinstance(schedule.timing, Sparse) and schedule.timing.pairs:
        return expected_messages(schedule, schedule.timing.pairs)
    rounds = _rounds(schedule)
    return sum(mixing.messages for mixing in _mixings(schedule, rounds)) / max(1, len(rounds))


def expected_messages(schedule: Schedule, pairs: Pairs) -> float:
    """Models that sparse gossip moves in a round, on average over its draws."""
    nodes, wanted = schedule.nodes, pairs.expected
    if isinstance(schedule.graph, Complete):
        most = nodes - nodes % 2 if wanted <= 1 and not pairs.one_way else nodes * (nodes - 1)
        return min(float(most), wanted * nodes)
    edges = schedule.pool(0)
    if not pairs.one_way:
        return 2 * len(edges.pairs()[0]) * pair_probability(edges, wanted)
    whole = math.floor(wanted)
    surely = np.minimum(whole, edges.in_degrees).sum()
    by_chance = np.count_nonzero(edges.in_degrees > whole)
    return float(surely + (wanted - whole) * by_chance)


def _rounds(schedule: Schedule) -> list[int]:
    return schedule.sample(max(SAMPLES, schedule.rounds if schedule.timing.finite else 0))


def _mixings(schedule: Schedule, rounds: list[int]) -> Iterator[Mixing]:
    """Of those rounds in which somebody may talk."""
    return (schedule.mixing(round) for round in rounds if schedule.mixes(round))


def _is_normal(mixing: Mixing) -> bool:
    """W and its transpose commute, as far as cheap to see: then |W^t - J| = |lambda_2|^t."""
    return mixing.is_symmetric or circulant_moduli(mixing) is not None


def _rounds_from_gap(gap: float, tolerance: float) -> int | None:
    if gap >= 1.0 - tolerance:
        return 1
    if gap <= 1e-14:
        return None
    return math.ceil(math.log(tolerance) / math.log1p(-gap) * (1 - 1e-12))


def _is_hopeless(schedule: Schedule, tolerance: float, round: int, distance: float) -> bool:
    """Too slow so far to get there in the rounds that are followed.

    Distances fall fastest at first: what a first thousand rounds do not show will
    not come later, but where the schedule itself changes.
    """
    if round % PATIENCE or schedule.timing.finite or round < (schedule.period or 0):
        return False
    least = distance / math.sqrt(schedule.nodes - 1) if schedule.nodes <= EXACT else distance
    return math.log(least) / round > math.log(tolerance) / ROUNDS


def _starts(nodes: int) -> Float64:
    """All starts (the columns of I - J) or random ones, each without its mean."""
    if nodes <= EXACT:
        return np.eye(nodes) - 1.0 / nodes
    words = Source(seed=0, stream=Stream.PROBES).fractions(nodes * PROBES)
    probes = words.reshape(nodes, PROBES)
    return np.asarray(probes - probes.mean(axis=0), dtype=np.float64)


def _matrices(schedule: Schedule) -> "Callable[[int], csr_array]":
    """W of a round for multiplication; those of a period are made once."""
    period = schedule.period
    made: dict[int, csr_array] = {}

    def matrix(round: int) -> "csr_array":
        if period is None:
            return schedule.mixing(round).sparse()
        place = round % period if schedule.mixes(round) else SILENCE
        if place not in made:
            made[place] = schedule.mixing(round).sparse()
        return made[place]

    return matrix


def _largest(apart: Float64, exact_below: float) -> float:
    total = float(np.linalg.norm(apart))
    if total / math.sqrt(max(1, len(apart) - 1)) > exact_below:
        return total
    return float(np.linalg.norm(apart, ord=2))
