"""The wall-clock of a cell, on machines and links that its section `[time]` describes."""

from weft.errors import InvalidInput
from weft.simulations.clock.forecasts import forecast
from weft.simulations.clock.outcome import Forecast
from weft.simulations.clock.presence import Presence
from weft.simulations.clock.quantities import byte_count
from weft.simulations.clock.written import machines_and_links
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.build import rule_of, schedule_of
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.settings import TimeSection
from weft.simulations.learning.traffic import FLOAT32, models
from weft.topology.schedules import Schedule


def forecast_of(cell: Cell, size: int) -> Forecast | None:
    """How long a run like this cell would take.

    Nodes send whole models along the edges of the schedule, as daemons do.

    Args:
        cell: with a section `[time]` or without.
        size: float32 parameters of a model, where the section does not say otherwise.

    Returns:
        None where there is no such section, and for rules that send something else: nobody
        knows how those would be sent.

    Raises:
        InvalidInput: machines or links that cannot be.
        BadExperiment: a run that would never end; names the cell.
    """
    section = cell.settings.time
    schedule = schedule_of(cell)
    if section is None or not _sends_models(cell, schedule, size):
        return None
    machines, links = machines_and_links(section.machines_and_links, cell.folder)
    try:
        return forecast(
            schedule,
            machines,
            links,
            steps_seconds=_round_seconds(cell, section),
            model_bytes=FLOAT32 * size if section.model_bytes is None else section.model_bytes,
            policy=section.policy,
            deadline_s=section.deadline_s,
            final=cell.settings.experiment.final_merge,
            seed=cell.settings.experiment.seed,
        )
    except InvalidInput as error:
        raise BadExperiment(f"{cell.title}: time: {error}") from error


def check_time(cell: Cell) -> None:
    """Refuse a section `[time]` that cannot be; nothing is forecast.

    Raises:
        BadExperiment: nobody knows how long a round of the user's trainer takes.
        InvalidInput: an unknown key, machines or links that cannot be.
    """
    section = cell.settings.time
    if section is None:
        return
    _round_seconds(cell, section)
    if section.model_bytes is not None:
        byte_count(section.model_bytes)
    machines, links = machines_and_links(section.machines_and_links, cell.folder)
    machines.factors(cell.settings.task.nodes, cell.settings.experiment.seed)
    links.laid(cell.settings.task.nodes, cell.settings.experiment.seed)
    Presence(cell.settings.task.nodes, machines.absences, links.partitions)


def _round_seconds(cell: Cell, section: TimeSection) -> float:
    if section.round_seconds is not None:
        return section.round_seconds
    if cell.settings.task.trainer is not None:
        raise BadExperiment(
            "time.round_seconds: missing; a trainer of one's own does not say how many steps it "
            "takes"
        )
    return section.step_seconds * cell.settings.task.steps


def _sends_models(cell: Cell, schedule: Schedule, size: int) -> bool:
    """Whether the rule sends one whole model along each edge, in the first round that mixes."""
    rounds = (round for round in range(schedule.rounds) if schedule.mixes(round))
    first = next(rounds, None)
    if first is None:
        return True
    mixing = schedule.mixing(first)
    return rule_of(cell).traffic(mixing, size) == models(mixing, size)
