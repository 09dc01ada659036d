"""Forecasts: seconds, bytes and idle time of a run that has not been run.

The nodes live by the daemon's machines: train, publish, collect, agree, merge, evaluate,
and after the last round the sharded global merge. All start at once, with the base model.
A contribution that is published while a neighbour waits for it is there after five
latencies (the answer; the manifest, asked for and given; the request; the last byte) and
the time its bytes take. Membership stays what it is: nobody is dropped for being away.
What is not there: slow starts of connections, pauses before somebody is asked again, the
statistics of a model with BatchNorm.

With a machine for each node a round of 256 nodes takes a fraction of a second; the global
merge of uneven links grows with the cube of the nodes, some seconds for 64.

>>> from weft.simulations.clock.links import Links
>>> from weft.simulations.clock.machines import Machines
>>> from weft.topology.schedules import ScheduleParams, build_schedule
>>> ring = build_schedule(ScheduleParams(graph="ring"), nodes=4, rounds=10, seed=0)
>>> found = forecast(
...     ring, Machines(), Links(up_mbit=200.0), steps_seconds=600.0, model_bytes="140 GB",
...     final=False,
... )
>>> round(found.seconds / 3600, 2)  # ten times 600 s and 2 x 140 GB over 200 Mbit/s
32.78
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from weft.simulations.clock.arrays import timed_by_arrays
from weft.simulations.clock.links import Links
from weft.simulations.clock.lives import Life
from weft.simulations.clock.machines import Machines, Pace
from weft.simulations.clock.outcome import Forecast, Question, edge_arrays
from weft.simulations.clock.presence import Presence
from weft.simulations.clock.quantities import byte_count
from weft.simulations.clock.roster import Roster
from weft.simulations.clock.sharding import Sharding
from weft.simulations.clock.world import Link, World
from weft.simulations.errors import BadOption
from weft.topology.edges import Float64
from weft.topology.schedules import Schedule
from weft.topology.shares import split_shares

MOST_BY_MACHINES = 512
"""Nodes up to which `form="auto"` takes the machines."""
Policy = Literal["wait", "deadline"]
Form = Literal["auto", "machines", "arrays"]


def forecast(
    schedule: Schedule,
    machines: Machines,
    links: Links,
    *,
    steps_seconds: float,
    model_bytes: float | str | Mapping[str, int],
    rounds: int | None = None,
    policy: Policy = "wait",
    deadline_s: float = 60.0,
    final: bool = True,
    seed: int = 0,
    form: Form = "auto",
) -> Forecast:
    """How long a run would take, what would move over which link, who would wait how long.

    Args:
        schedule: who hears whom in which round.
        machines: what nodes compute on, and when they are away.
        links: between them.
        steps_seconds: of a round's training (steps times seconds a step) on a node whose
            slowness is one.
        model_bytes: a number, a text such as "140 GB", or bytes by tensor; the global merge
            is cut by whole tensors where they are known, and evenly otherwise.
        rounds: how many; None: the schedule's.
        policy: "wait" for everybody, or go on after a "deadline".
        deadline_s: how long contributions, and then verdicts, are waited for.
        final: the run ends with a global merge.
        seed: of everything that is drawn; equal seeds, equal forecasts.
        form: "machines"; "arrays", for which see `weft.simulations.clock.arrays`; "auto":
            arrays for more than 512 nodes where they answer the question at all.

    Raises:
        BadOption: a figure out of range, a list of another length than there are nodes, or
            a run that would never end.
        BadData: a matrix file that does not fit.
    """
    whole = _whole(model_bytes)
    _check(steps_seconds, deadline_s, policy)
    shares = _share_bytes(schedule.nodes, model_bytes) * links.codec_ratio if final else None
    question = Question(
        schedule=schedule,
        machines=machines,
        pace=Pace(machines, schedule.nodes, steps_seconds, seed),
        links=links.laid(schedule.nodes, seed),
        rounds=schedule.rounds if rounds is None else rounds,
        message_bytes=whole * links.codec_ratio,
        share_bytes=shares,
        deadline_s=deadline_s if policy == "deadline" else None,
    )
    if form == "arrays" or (form == "auto" and _asks_for_arrays(question, links)):
        if links.partitions:
            raise BadOption('form="arrays": found partitions, expected none; take "machines"')
        return timed_by_arrays(question)
    return timed_by_machines(question, links, seed)


def timed_by_machines(question: Question, links: Links, seed: int) -> Forecast:
    """Answer a question with a machine for each node."""
    nodes, machines = question.schedule.nodes, question.machines
    presence = Presence(nodes, machines.absences, links.partitions, machines.churn, seed)
    world = World(presence, question.links, nodes)
    roster = Roster(
        schedule=question.schedule,
        rounds=question.rounds,
        pace=question.pace,
        message_bytes=question.message_bytes,
        deadline_s=question.deadline_s,
        has_final=question.share_bytes is not None,
    )
    shares = np.zeros(nodes) if question.share_bytes is None else question.share_bytes
    sharding = Sharding(world, question.pace, shares.tolist(), machines.settle_seconds)
    moved: dict[Link, float] = {}
    lives = [Life(node, roster, world, sharding, moved) for node in range(nodes)]
    for life in lives:
        world.clock.at(0.0, life.proceed)
    world.run(lambda: all(life.account.end is not None for life in lives))
    return _told(lives, presence, question, moved, sharding)


def _told(
    lives: list[Life],
    presence: Presence,
    question: Question,
    moved: dict[Link, float],
    sharding: Sharding,
) -> Forecast:
    accounts = [life.account for life in lives]
    ends = np.array([account.end for account in accounts], dtype=np.float64)
    missed = np.zeros(question.rounds, dtype=np.int64)
    for account in accounts:
        for number, count in account.missed.items():
            missed[number] += count
    senders, receivers, amounts = edge_arrays(moved)
    shares = question.share_bytes
    return Forecast(
        round_ends=_columns([account.round_ends for account in accounts], question.rounds),
        ends=ends,
        busy=np.array([account.busy for account in accounts]),
        away=np.array(
            [presence.away_s(life.node, end) for life, end in zip(lives, ends, strict=True)]
        ),
        senders=senders,
        receivers=receivers,
        bytes=amounts,
        share_bytes=np.zeros(len(lives)) if shares is None else shares,
        final_bytes=sum(sharding.moved.values()),
        missed=missed,
    )


def _columns(rows: list[list[float]], rounds: int) -> Float64:
    return np.array(rows, dtype=np.float64).reshape(len(rows), rounds).T.copy()


def _whole(size: float | str | Mapping[str, int]) -> float:
    if isinstance(size, Mapping):
        return float(sum(size.values()))
    return byte_count(size)


def _share_bytes(nodes: int, size: float | str | Mapping[str, int]) -> Float64:
    if not isinstance(size, Mapping):
        return np.full(nodes, byte_count(size) / nodes)
    cut = split_shares(size, nodes)
    return np.array([sum(size[name] for name in names) for names in cut], dtype=np.float64)


def _asks_for_arrays(question: Question, links: Links) -> bool:
    exact = question.deadline_s is None and not links.loss and not links.partitions
    many = question.schedule.nodes > MOST_BY_MACHINES
    return many and exact and question.machines.always_there


def _check(steps_seconds: float, deadline_s: float, policy: str) -> None:
    if not 0 <= steps_seconds < np.inf:
        raise BadOption(f"steps_seconds: found {steps_seconds!r}, expected at least 0")
    if not 0 < deadline_s < np.inf:
        raise BadOption(f"deadline_s: found {deadline_s!r}, expected above 0")
    if policy not in ("wait", "deadline"):
        raise BadOption(f"policy: found {policy!r}, expected wait or deadline")
