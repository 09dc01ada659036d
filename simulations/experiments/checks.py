"""What can be told of every cell before the first one runs: that it can be, and its bytes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from weft.errors import InvalidInput
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.build import engine_of, model_size, rule_of, schedule_of
from weft.simulations.experiments.cells import Cell, Experiment
from weft.simulations.experiments.timing import check_time, forecast_of
from weft.simulations.learning.registry import fits
from weft.simulations.learning.traffic import Traffic, all_reduce

MOST_NUMBERS = 2**32
"""Of all nodes of the engine `gossip`: some 100 GB while they are mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A cell before it runs.

    Attributes:
        cell: which.
        parameters: of its model.
        messages, bytes: of all nodes in all rounds, and of the final merge where there
            is one.
        seconds: that a run would take, where the cell has a section `[time]`.
    """

    cell: Cell
    parameters: int
    messages: int
    bytes: float
    seconds: float | None


def check(experiment: Experiment) -> dict[str, int]:
    """Refuse an experiment of which some cell cannot run; nothing is trained.

    Looked at: graph, weights and schedule (connected? stochastic?), rule, machines and
    links, data, split, model and trainer of every cell; and that ranks are all or none.

    Returns:
        For each cell's id the number of parameters of its model.

    Raises:
        BadExperiment: names the cell, and what is wrong with it.
    """
    engines = {cell.settings.experiment.engine for cell in experiment.cells}
    if "distributed" in engines and len(engines) > 1:
        raise BadExperiment(
            f"experiment.engine: found {', '.join(sorted(engines))}; expected distributed for all "
            "cells or for none"
        )
    sizes: dict[str, int] = {}
    known: dict[str, int] = {}
    for cell in experiment.studies:
        try:
            sizes[cell.id] = _checked(cell, known)
        except InvalidInput as error:
            raise BadExperiment(f"{cell.title}: {error}") from error
    return sizes


def plan(experiment: Experiment, sizes: dict[str, int]) -> Iterator[Planned]:
    """What every cell will move, and for how long; `sizes` are those of `check`."""
    for cell in experiment.cells:
        moved = traffic(cell, sizes[cell.id])
        last = final_traffic(cell, sizes[cell.id])
        found = forecast_of(cell, sizes[cell.id])
        yield Planned(
            cell=cell,
            parameters=sizes[cell.id],
            messages=moved.messages + last.messages,
            bytes=moved.bytes + last.bytes,
            seconds=None if found is None else found.seconds,
        )


def traffic(cell: Cell, size: int) -> Traffic:
    """All rounds of a cell, for a model of so many parameters."""
    schedule, rule = schedule_of(cell), rule_of(cell)
    rounds = cell.settings.experiment.rounds
    period = min(rounds, schedule.period or rounds)
    once = [rule.traffic(schedule.mixing(round), size) for round in range(period)]
    every = [once[round % period] for round in range(rounds)]
    return Traffic(sum(each.messages for each in every), sum(each.bytes for each in every))


def final_traffic(cell: Cell, size: int) -> Traffic:
    """The final merge, sharded over the nodes; nothing where there is none."""
    if not cell.settings.experiment.final_merge:
        return Traffic(0, 0.0)
    return all_reduce(cell.settings.task.nodes, size)


def _check_memory(cell: Cell) -> None:
    nodes, vector = cell.settings.task.nodes, cell.settings.gossip.vector
    if cell.settings.experiment.engine == "gossip" and nodes * vector > MOST_NUMBERS:
        raise BadExperiment(
            f"gossip.vector: found {vector} numbers on each of {nodes} nodes, expected at most "
            f"{MOST_NUMBERS} in all; take fewer: what they converge to does not depend on it"
        )


def _checked(cell: Cell, known: dict[str, int]) -> int:
    """The size of a cell's model; `known` has those of the tasks that were looked at."""
    engine_of(cell)
    _check_memory(cell)
    schedule = schedule_of(cell)
    schedule.check()
    fits(rule_of(cell), schedule)
    check_time(cell)
    document = cell.settings.plain()
    seed, engine = document["experiment"]["seeds"], document["experiment"]["engine"]
    key = json.dumps([seed, engine, document["task"], document["gossip"]], sort_keys=True)
    if key not in known:
        known[key] = model_size(cell)
    return known[key]
