"""How fast the nodes agree: what the spectrum predicts, and what a study measured.

>>> from weft.topology.schedules import ScheduleParams, build_schedule
>>> ring = build_schedule(ScheduleParams(graph="ring"), nodes=6, rounds=9, seed=0)
>>> round(predicted(ring), 6), round(next(expected_shares(ring)), 6)
(0.666667, 0.447214)
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from weft.simulations.study import Moment
from weft.topology.edges import Float64
from weft.topology.schedules import Schedule
from weft.topology.spectrum import circulant_moduli, expected_contraction, gap_over_period

FLOOR = 1e-12
"""Share of the first distance below which a distance is rounding."""


def repeats_after(schedule: Schedule) -> int:
    """Rounds that belong together: a schedule's period, or its cycle where chance draws."""
    return schedule.timing.cycle if schedule.period is None else max(1, schedule.period)


def predicted(schedule: Schedule) -> float:
    """By what the consensus distance is multiplied a round, from the spectrum.

    On average over a period (or cycle), silent rounds included, and in the slowest
    direction: any other distance shrinks faster, so for symmetric or circulant W it is a
    bound over whole periods. With chance, the root of what the square shrinks by in
    expectation. 0 where a period is exact; 1 where nobody talks; not a number where
    `gap_over_period` has none, and for windows and late schedules, whose rounds are not alike.
    """
    together = repeats_after(schedule)
    if schedule.nodes == 1:
        return 0.0
    if schedule.silent:
        return 1.0
    if schedule.period is not None:
        left = 1.0 - gap_over_period(schedule)
        return left ** (1 / together) if left > FLOOR else 0.0
    if schedule.timing.finite:
        return math.nan
    # One round of a cycle talks; what is expected is spread over all its rounds.
    square = 1.0 - together * (1.0 - expected_contraction(schedule))
    return square if math.isnan(square) else math.sqrt(max(0.0, square)) ** (1 / together)


def expected_shares(schedule: Schedule) -> Iterator[float]:
    """The consensus distance after each round, as a share of that at the start.

    The root of the expected square, for independent starts of equal variance: for
    circulant W from all of its eigenvalues, and for schedules without special nodes from
    what chance is expected to leave. Not a number from the first round on whose W is
    neither, and under push-sum, whose models are quotients.
    """
    moduli = np.ones(max(1, schedule.nodes - 1))
    square = math.nan if schedule.push_sum else 1.0
    chance = _left_by_chance(schedule)
    for round in range(schedule.rounds):
        if schedule.mixes(round):
            if chance is None:
                moduli, square = _by_spectrum(schedule, round, moduli, square)
            else:
                square *= chance
        yield math.sqrt(square)


def measured(moments: Sequence[Moment], together: int = 1) -> float:
    """By what the exchanges multiplied the consensus distance a round, lately.

    The root mean square over the later half of the study of what was left of the distance
    after `together` rounds (`repeats_after`), per round. Rounds that began with no more
    than rounding of the first distance are left out.

    Returns:
        0 where such a stretch left nothing but rounding; not a number where there is no
        whole stretch of rounds.
    """
    stretches = [
        moments[start : start + together]
        for start in range(0, len(moments) - together + 1, together)
    ]
    if not stretches:
        return math.nan
    least = FLOOR * moments[0].trained
    apart = [stretch for stretch in stretches if stretch[0].trained > least]
    left = [math.prod(_left(moment) for moment in stretch) for stretch in apart]
    late = np.array(left[len(left) // 2 :])
    if not len(late) or late.min() <= FLOOR:
        return 0.0
    return float(np.sqrt(np.mean(np.square(late))) ** (1 / together))


def _left(moment: Moment) -> float:
    return moment.mixed / moment.trained if moment.trained else 0.0


def _left_by_chance(schedule: Schedule) -> float | None:
    """What a round that talks leaves of the square; None: it is not the same for all."""
    if schedule.period is not None or schedule.timing.finite or not schedule.exchangeable:
        return None
    return 1.0 - schedule.timing.cycle * (1.0 - expected_contraction(schedule))


def _by_spectrum(
    schedule: Schedule, round: int, moduli: Float64, square: float
) -> tuple[Float64, float]:
    """All eigenvalues but the first of the product so far, and their mean square."""
    found = circulant_moduli(schedule.mixing(round))
    if found is None or math.isnan(square):
        return moduli, math.nan
    moduli = moduli * found[1:]
    # n - 1 of n degrees of freedom are apart at the start: the shares have the same factor.
    return moduli, float(np.mean(np.square(moduli)))
