"""`weft simulate`: an experiment over virtual nodes, from a file or from a few options."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.output import JsonFlag, emit, note, progress
from weft.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weft.simulations.experiments.cells import Cell, Experiment
    from weft.simulations.experiments.checks import Planned
    from weft.simulations.experiments.host import Host
    from weft.simulations.experiments.records import ResultsFolder
    from weft.simulations.experiments.results import Results

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

RESULTS = Path("weft-simulations")
UNNAMED = "simulation"
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2

File = Annotated[
    Path | None, typer.Argument(help="The experiment, a TOML file.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(help="The folder of the results.", show_default=f"{RESULTS}/NAME"),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value, as often as needed; a list sweeps."),
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Show cells and bytes, run nothing.")]
Topology = Annotated[str | None, typer.Option(help="Without a file: the graph.")]
Nodes = Annotated[int | None, typer.Option("--nodes", "-n", help="Without a file: how many.")]
When = Annotated[str | None, typer.Option(help="Without a file: when they exchange.")]
Rule = Annotated[str | None, typer.Option(help="Without a file: what they make of it.")]
Rounds = Annotated[int | None, typer.Option(help="Without a file: how many rounds.")]
Task = Annotated[str | None, typer.Option(help="Without a file: digits, or an .npz.")]
Engine = Annotated[str | None, typer.Option(help="Without a file: local, stacked, gossip, ...")]


@app.command(
    epilog="Example: weft simulate experiments/quick.toml\n\n"
    "Example: weft simulate --topology ring --nodes 16 --set task.alpha=0.1"
)
def simulate(
    file: File = None,
    out: Out = None,
    change: Changes = None,
    plan: PlanOnly = False,
    topology: Topology = None,
    nodes: Nodes = None,
    schedule: When = None,
    rule: Rule = None,
    rounds: Rounds = None,
    task: Task = None,
    engine: Engine = None,
    as_json: JsonFlag = False,
) -> None:
    """Many nodes that learn and merge, without any of them: what a plan would come to.

    A file describes cells: arms, and a cell for each combination of the values in its
    lists. All are checked before the first one runs; each is kept when it is done, and the
    same command goes on where it was stopped. Tables, pictures and a report come at the end.
    """
    given = {
        "topology.graph": topology,
        "task.nodes": nodes,
        "schedule.name": schedule,
        "learning.rule": rule,
        "experiment.rounds": rounds,
        "task.data": task,
        "experiment.engine": engine,
    }
    experiment = _experiment(file, {key: v for key, v in given.items() if v is not None}, change)
    with _prints_elsewhere():
        sizes = _checked(experiment)
        results = None if plan else _run(experiment, out or RESULTS / experiment.name)
    if plan:
        _show_plan(experiment, sizes, as_json)
        return
    if results is None:  # another rank has them
        return
    if not results.drawn:
        note("weft: no pictures: matplotlib is not installed; its extra is 'plots'")
    emit(results.document, as_json, lambda _: _table(results))


def _experiment(
    file: Path | None, given: dict[str, Any], changes: Sequence[str] | None
) -> "Experiment":
    """From the file, or from what the options say."""
    from weft.simulations.experiments.reading import experiment_of, load_experiment

    if file is not None and given:
        key = next(iter(given))
        raise InvalidInput(
            f"found a file and an option for {key}; with a file say --set {key}={given[key]}"
        )
    if file is not None:
        return load_experiment(file, changes or [])
    if not given and not changes:
        raise InvalidInput(
            "found neither a file nor options; expected an experiment's file, or such as "
            "--topology ring --nodes 16"
        )
    document: dict[str, Any] = {"experiment": {"name": UNNAMED}}
    for dotted, value in given.items():
        section, _, key = dotted.partition(".")
        document.setdefault(section, {})[key] = value
    return experiment_of(document, where="options", folder=Path.cwd(), changes=changes or [])


@contextmanager
def _prints_elsewhere() -> Iterator[None]:
    """What the user's code prints, here or in a worker, does not get into the document.

    Workers have this process's descriptors, and none of its objects: both are turned.
    """
    with redirect_stdout(sys.stderr), ExitStack() as undo:
        with suppress(OSError):  # one of the two is closed
            kept = os.dup(STANDARD_OUTPUT)
            undo.callback(os.close, kept)
            os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
            undo.callback(os.dup2, kept, STANDARD_OUTPUT)
        yield


def _checked(experiment: "Experiment") -> dict[str, int]:
    from weft.simulations.experiments.checks import check

    return check(experiment)


def _show_plan(experiment: "Experiment", sizes: dict[str, int], as_json: bool) -> None:
    from weft.simulations.experiments.checks import plan

    planned = list(plan(experiment, sizes))
    document = {"name": experiment.name, "cells": [_planned(each) for each in planned]}
    emit(document, as_json, lambda _: _plan_table(experiment, planned))


def _planned(planned: "Planned") -> dict[str, Any]:
    cell = planned.cell
    return {
        "cell": cell.id,
        "arm": cell.arm,
        "swept": dict(cell.swept),
        "seed": cell.settings.experiment.seed,
        "parameters": planned.parameters,
        "messages": planned.messages,
        "bytes": planned.bytes,
        "seconds": planned.seconds,
    }


def _run(experiment: "Experiment", path: Path) -> "Results | None":
    """What is not there yet, and then the results of all; None on all ranks but the first."""
    from weft.cli.demo_history import recalled
    from weft.simulations.engines.meeting import joined
    from weft.simulations.experiments.host import Host
    from weft.simulations.experiments.records import ResultsFolder

    folder = ResultsFolder(path)
    if not experiment.is_distributed:
        return _finish(experiment, folder, Host(recall=recalled))
    with joined(experiment.cells[0].settings.experiment.device) as meeting:
        return _finish(experiment, folder, Host(meeting=meeting))


def _finish(experiment: "Experiment", folder: "ResultsFolder", host: "Host") -> "Results | None":
    from weft.simulations.experiments.results import write_results
    from weft.simulations.experiments.runner import pending

    if host.leads:
        folder.claim(experiment.name)
    todo = pending(experiment, folder, host)
    if host.leads and len(todo) < len(experiment.studies):
        studies = len(experiment.studies)
        note(f"{studies - len(todo)} of {studies} are in {folder.path}")
    _run_cells(experiment, todo, folder, host)
    return write_results(experiment, folder) if host.leads else None


def _run_cells(
    experiment: "Experiment",
    todo: "list[Cell]",
    folder: "ResultsFolder",
    host: "Host",
) -> None:
    from weft.simulations.experiments.runner import run

    if not host.leads:
        run(todo, folder, host=host)
        return
    total = sum(cell.settings.experiment.rounds for cell in todo)
    try:
        with progress(f"{experiment.name}, {len(todo)} cells", total) as advance:
            run(todo, folder, lambda cell, moment: advance(1), host)
    except KeyboardInterrupt:
        there = sum(folder.load(cell.id) is not None for cell in experiment.studies)
        note(
            f"stopped; {there} of {len(experiment.studies)} are in {folder.path}: "
            "the same command goes on from there"
        )
        raise


def _table(results: "Results") -> "RenderableType":
    """The final figures, a line each."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from weft.simulations.experiments.report import bytes_text, seconds_text, spread_text

    timed = any("seconds" in line.figures for line in results.lines)
    heads = ("", "accuracy", "nodes", "merged", "worst", "distance", "bytes", "contraction")
    table = Table(title=f"{results.document['name']}: mean ± deviation over seeds")
    table.title_justify = "left"
    for place, head in enumerate([*heads, *(["time"] if timed else []), "seeds"]):
        table.add_column(head, justify="right" if place else "left")
    for line in results.lines:
        figures = line.figures
        shares = [
            spread_text(figures.get(f"accuracy{each}"), ".1%")
            for each in ("", "_mean", "_merged", "_worst")
        ]
        table.add_row(
            Text(line.name),
            *shares,
            spread_text(figures.get("distance"), ".3g"),
            bytes_text(figures["bytes"].mean) if "bytes" in figures else "",
            _contraction(figures),
            *([seconds_text(figures["seconds"].mean) if "seconds" in figures else ""] * timed),
            f"{line.seeds}" + (f" ({line.diverged} diverged)" if line.diverged else ""),
        )
    return Group(table, Text(f"report: {results.report}"))


def _contraction(figures: Any) -> str:
    """Measured, and what the spectrum predicted."""
    seen, foretold = (figures.get(f"contraction_{each}") for each in ("measured", "predicted"))
    if seen is None:
        return ""
    return f"{seen.mean:.3f}" + ("" if foretold is None else f" ({foretold.mean:.3f})")


def _plan_table(experiment: "Experiment", planned: "Sequence[Planned]") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from weft.simulations.experiments.report import bytes_text, seconds_text

    timed = ["time"] if experiment.is_timed else []
    table = Table(title=f"{experiment.name}: cells", title_justify="left")
    for head in ("cell", "", "seed"):
        table.add_column(head)
    for head in ("nodes", "rounds", "parameters", "messages", "bytes", *timed):
        table.add_column(head, justify="right")
    for each in planned:
        settings = each.cell.settings
        table.add_row(
            each.cell.id,
            Text(each.cell.line),
            f"{settings.experiment.seed}",
            f"{settings.task.nodes}",
            f"{settings.experiment.rounds}",
            f"{each.parameters:,}",
            f"{each.messages:,}",
            bytes_text(each.bytes),
            *(["" if each.seconds is None else seconds_text(each.seconds)] if timed else []),
        )
    studies = len(experiment.studies)
    return Group(table, Text(f"{len(planned)} cells, {studies} studies to run"))
