"""What is written when all cells are there: tables, a summary, pictures, a report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.simulations.errors import BadExperiment
from weft.simulations.experiments import plots
from weft.simulations.experiments.cells import Experiment
from weft.simulations.experiments.records import ResultsFolder
from weft.simulations.experiments.report import write_report
from weft.simulations.experiments.tables import (
    Line,
    Outcome,
    as_csv,
    cell_row,
    round_rows,
    summary,
)
from weft.simulations.experiments.tuning import chosen

ROUNDS, CELLS_TABLE, SUMMARY, REPORT = "rounds.csv", "cells.csv", "summary.json", "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What was found out, and where it lies.

    Attributes:
        lines: figures over seeds.
        document: the summary, as plain values.
        report: the page.
        drawn: whether there are pictures: matplotlib is optional.
    """

    lines: Sequence[Line]
    document: dict[str, Any]
    report: Path
    drawn: bool


def write_results(experiment: Experiment, folder: ResultsFolder) -> Results:
    """Write everything, from the cells that were kept; blocks.

    Tables and summary are the same to the byte for the same cells.

    Raises:
        BadExperiment: a cell is not there.
    """
    outcomes = gathered(experiment, folder)
    rows = [cell_row(experiment, outcome) for outcome in outcomes]
    shown = chosen(outcomes)
    lines = summary(experiment, shown)
    document = summary_document(experiment, lines)
    drawn = plots.can_draw()
    pictures = plots.pictures(experiment, shown) if drawn else []
    folder.write(ROUNDS, as_csv(round_rows(experiment, outcomes)))
    folder.write(CELLS_TABLE, as_csv(rows))
    folder.write(SUMMARY, json.dumps(document, indent=1, allow_nan=False) + "\n")
    for picture in pictures:
        folder.write(picture.name, picture.png)
    page = write_report(experiment, lines, pictures, drawn=drawn)
    return Results(lines=lines, document=document, report=folder.write(REPORT, page), drawn=drawn)


def gathered(experiment: Experiment, folder: ResultsFolder) -> list[Outcome]:
    """Every cell with what was kept of it; a study that several cells share is read once.

    Raises:
        BadExperiment: a cell is not there.
    """
    records = {cell.id: folder.load(cell.id) for cell in experiment.studies}
    found = []
    for cell in experiment.cells:
        record = records[cell.id]
        if record is None:
            raise BadExperiment(
                f"{folder.path}: {cell.title} was not run; run the experiment again"
            )
        found.append(Outcome(cell=cell, record=record))
    return found


def summary_document(experiment: Experiment, lines: Sequence[Line]) -> dict[str, Any]:
    """The summary as JSON holds it."""
    return {
        "name": experiment.name,
        "cells": len(experiment.cells),
        "studies": len(experiment.studies),
        "swept": list(experiment.keys),
        "lines": [asdict(line) for line in lines],
    }
