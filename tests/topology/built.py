"""Schedules in one line, for the tests of this folder."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.topology.adaptive import Announcement
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule

GRAPHS = (
    *("complete", "ring", "path", "star", "exponential", "one_peer_exponential", "base_k"),
    *("torus", "hypercube", "random_regular", "erdos_renyi", "watts_strogatz"),
    *("random_matching", "epidemic", "two_hub", "file"),
)
WEIGHTS = ("own", "metropolis", "uniform", "sinkhorn", "max_degree", "hastings", "push_sum")


def built(
    graph: str,
    nodes: int,
    weights: str = "own",
    schedule: str = "every",
    *,
    options: dict[str, Scalar] | None = None,
    when: dict[str, Scalar] | None = None,
    rounds: int = 100,
    seed: int = 0,
    sizes: Sequence[float] | None = None,
    announced: Sequence[Announcement] = (),
) -> Schedule:
    """A schedule; `options` are the graph's, `when` the schedule's."""
    params = ScheduleParams(
        graph=graph,
        graph_options=tuple((options or {}).items()),
        weights=weights,
        schedule=schedule,
        schedule_options=tuple((when or {}).items()),
    )
    return build_schedule(
        params, nodes=nodes, rounds=rounds, seed=seed, data_sizes=sizes, announced=announced
    )


def product(schedule: Schedule, rounds: int) -> NDArray[np.float64]:
    """W of the first rounds together: (nodes, nodes)."""
    total = np.eye(schedule.nodes)
    for round in range(rounds):
        total = schedule.mixing(round).dense() @ total
    return total
