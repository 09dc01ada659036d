"""Rows: of every round, of every cell, and of every line over its seeds.

A *line* is an arm with the values that were swept; its figures are means over seeds.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from weft.simulations.clock.outcome import Forecast
from weft.simulations.contraction import measured, predicted, repeats_after
from weft.simulations.experiments.build import rule_of, schedule_of
from weft.simulations.experiments.cells import Cell, Experiment
from weft.simulations.experiments.checks import final_traffic
from weft.simulations.experiments.records import Record, cumulative
from weft.simulations.experiments.timing import forecast_of
from weft.simulations.study import Accuracies
from weft.topology.schedules import Schedule
from weft.topology.spectrum import gap_over_period

Value: TypeAlias = str | int | float | None
Row: TypeAlias = dict[str, Value]

FIGURES = (
    "accuracy",
    "accuracy_mean",
    "accuracy_merged",
    "accuracy_worst",
    "accuracy_best",
    "loss",
    "distance",
    "bytes",
    "messages",
    "spectral_gap",
    "contraction_predicted",
    "contraction_measured",
    "seconds",
    "idle_share",
)
"""The columns of a cell that are averaged over seeds."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A cell and what was kept of it.

    Attributes:
        cell: with the arm and the values under which it is shown.
        record: of the study; that of another cell as well where both would run alike.
    """

    cell: Cell
    record: Record

    @cached_property
    def schedule(self) -> Schedule:
        """Who mixed with whom."""
        return schedule_of(self.cell)

    @cached_property
    def predicted(self) -> float:
        """By what an exchange multiplies the distance a round, from the spectrum.

        Not a number where the rule does more to the models than to mix them.
        """
        return predicted(self.schedule) if rule_of(self.cell).spectral else math.nan

    @cached_property
    def forecast(self) -> Forecast | None:
        """The wall-clock, where the cell has a section `[time]`."""
        return forecast_of(self.cell, self.record.parameters)

    @property
    def last(self) -> Accuracies | None:
        """After the last round; None where nothing was evaluated then."""
        return self.record.moments[-1].accuracies if self.record.moments else None

    @property
    def accuracy(self) -> float | None:
        """What the cell ends with; None where it diverged.

        The merged model's where there is a final merge, else the mean of the nodes', each
        with its own model.
        """
        if self.last is None or self.record.diverged is not None:
            return None
        merges = self.cell.settings.experiment.final_merge
        return self.last.merged if merges else self.last.mean

    @property
    def bytes(self) -> list[float]:
        """Up to each round, of all nodes; the final merge is not in them."""
        return list(cumulative([moment.bytes for moment in self.record.moments]))

    @property
    def total_bytes(self) -> float:
        """Of all rounds, and of the final merge where there is one."""
        last = final_traffic(self.cell, self.record.parameters).bytes
        return math.fsum(moment.bytes for moment in self.record.moments) + last

    @property
    def total_messages(self) -> int:
        """Of all rounds, and of the final merge where there is one."""
        last = final_traffic(self.cell, self.record.parameters).messages
        return sum(moment.messages for moment in self.record.moments) + last


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds: its mean, and the deviation of a sample; None for one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[Value]) -> "Spread | None":
        """Of those values that are finite numbers; None where there are none."""
        kept = [float(value) for value in values if isinstance(value, int | float)]
        finite = [value for value in kept if math.isfinite(value)]
        if not finite:
            return None
        deviation = statistics.stdev(finite) if len(finite) > 1 else None
        return cls(statistics.fmean(finite), deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of the summary.

    Attributes:
        name: arm and swept values.
        arm: empty where the file has none.
        swept: without the seed.
        seeds: how many cells.
        diverged: how many of them did.
        figures: those of `FIGURES` that are known, over the cells that did not diverge.
    """

    name: str
    arm: str
    swept: Mapping[str, Value]
    seeds: int
    diverged: int
    figures: Mapping[str, Spread]


def round_rows(experiment: Experiment, outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """One row a round of every cell, in the order of the cells."""
    for outcome in outcomes:
        known = _known(experiment, outcome.cell)
        for moment, moved in zip(outcome.record.moments, outcome.bytes, strict=True):
            yield known | {
                "round": moment.round,
                "loss": moment.loss,
                **_accuracies(moment.accuracies),
                "distance_trained": moment.trained,
                "distance_mixed": moment.mixed,
                "drift": moment.drift,
                "moved": moment.moved,
                "messages": moment.messages,
                "bytes": moved,
                **_round_end(experiment, outcome, moment.round),
            }


def cell_row(experiment: Experiment, outcome: Outcome) -> Row:
    """The final figures of a cell."""
    settings, record = outcome.cell.settings, outcome.record
    moments = record.moments
    together = repeats_after(outcome.schedule)
    return _known(experiment, outcome.cell) | {
        "engine": settings.experiment.engine,
        "nodes": settings.task.nodes,
        "rounds": len(moments),
        "parameters": record.parameters,
        "accuracy": outcome.accuracy,
        **_accuracies(outcome.last),
        "loss": moments[-1].loss if moments else None,
        "distance": moments[-1].mixed if moments else None,
        "messages": outcome.total_messages,
        "bytes": outcome.total_bytes,
        "spectral_gap": gap_over_period(outcome.schedule),
        "contraction_predicted": outcome.predicted,
        "contraction_measured": measured(moments, together) if moments else None,
        **_whole_run(experiment, outcome),
        "diverged": record.diverged or "",
    }


def summary(experiment: Experiment, outcomes: Sequence[Outcome]) -> list[Line]:
    """Means over seeds, in the order of the cells."""
    found: dict[str, list[tuple[Cell, Row]]] = {}
    for outcome in outcomes:
        row = cell_row(experiment, outcome)
        found.setdefault(outcome.cell.line, []).append((outcome.cell, row))
    return [_line(experiment, name, members) for name, members in found.items()]


def as_csv(rows: Iterable[Row]) -> str:
    """With a line of names; an empty field is a figure that is not known."""
    text = io.StringIO()
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({key: value for key, value in row.items() if _is_known(value)})
    return text.getvalue()


def _line(experiment: Experiment, name: str, members: Sequence[tuple[Cell, Row]]) -> Line:
    ended = [row for _, row in members if not row["diverged"]]
    spreads = {key: Spread.of(row.get(key) for row in ended) for key in FIGURES}
    first = members[0][0]
    return Line(
        name=name,
        arm=first.arm,
        swept=_swept(experiment, first),
        seeds=len(members),
        diverged=sum(bool(row["diverged"]) for _, row in members),
        figures={key: spread for key, spread in spreads.items() if spread is not None},
    )


def _round_end(experiment: Experiment, outcome: Outcome, round: int) -> Row:
    """When the last node ended a round; a column of experiments that have forecasts."""
    if not experiment.is_timed:
        return {}
    found = outcome.forecast
    return {"seconds": None if found is None else float(found.round_seconds[round])}


def _whole_run(experiment: Experiment, outcome: Outcome) -> Row:
    """Seconds in all, and the share of them in which a node waits, in the mean."""
    if not experiment.is_timed:
        return {}
    found = outcome.forecast
    if found is None:
        return {"seconds": None, "idle_share": None}
    idle = float(found.idle.sum() / found.ends.sum()) if found.ends.sum() else 0.0
    return {"seconds": found.seconds, "idle_share": idle}


def _known(experiment: Experiment, cell: Cell) -> Row:
    """The columns that say which cell it is."""
    seed = cell.settings.experiment.seed
    return {"cell": cell.id, "arm": cell.arm, **_swept(experiment, cell), "seed": seed}


def _swept(experiment: Experiment, cell: Cell) -> Row:
    """The value of every swept key, in arms that do not sweep it as well."""
    return {key: cell.settings.value(key) for key in experiment.keys}


def _accuracies(found: Accuracies | None) -> Row:
    names = ("mean", "worst", "best", "merged")
    return {f"accuracy_{name}": None if found is None else getattr(found, name) for name in names}


def _is_known(value: Value) -> bool:
    """A figure that is no finite number is not known."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
