"""Forecasts of small runs, by the names that the tests speak of."""

from typing import Any

from weft.simulations.clock.forecasts import forecast
from weft.simulations.clock.links import Links
from weft.simulations.clock.machines import Machines
from weft.simulations.clock.outcome import Forecast
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule

MEGABYTE = 1e6
EIGHT_MBIT = 8.0
"""A megabyte a second."""


def schedule_of(graph: str, nodes: int, rounds: int = 3, **params: Any) -> Schedule:
    named = ScheduleParams(graph=graph, **params)
    return build_schedule(named, nodes=nodes, rounds=rounds, seed=0)


def timed(
    graph: str = "ring",
    nodes: int = 4,
    *,
    rounds: int = 3,
    machines: Machines | None = None,
    links: Links | None = None,
    schedule: Schedule | None = None,
    **more: Any,
) -> Forecast:
    """A megabyte, a second of training a round, no global merge, unless told otherwise."""
    given = {"steps_seconds": 1.0, "model_bytes": MEGABYTE, "final": False, **more}
    return forecast(
        schedule or schedule_of(graph, nodes, rounds),
        machines or Machines(),
        links or Links(),
        **given,
    )
