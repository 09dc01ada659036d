"""Figures of the runs, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot

from streams.report import Outcome
from streams.runs import Run

mpl.use("Agg")


def draw(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Bars of final means, and the first order's runs that were scored on the way.

    One picture of each kind a stream; none of the second where no run was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    for outcome in outcomes:
        found.append(_bars(outcome, folder / f"{outcome.stream}-accuracy.png"))
        if runs := _followed(outcome):
            found.append(_matrices(outcome.stream, runs, folder))
    return found


def _followed(outcome: Outcome) -> list[Run]:
    return [
        run
        for run in outcome.runs
        if run.seed == outcome.seeds[0] and run.place == 0 and len(run.matrix) > 1
    ]


def _bars(outcome: Outcome, path: Path) -> Path:
    rows = sorted(outcome.rows, key=lambda row: outcome.interval(row).mean)
    intervals = [outcome.interval(row) for row in rows]
    means = np.array([each.mean for each in intervals])
    errors = np.array([[each.mean - each.low, each.high - each.mean] for each in intervals]).T
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(rows) + 1), layout="constrained")
    axes.barh(rows, means, xerr=np.maximum(errors, 0), color="#4878a8", ecolor="black", capsize=2)
    axes.set_xlim(left=max(means.min() - 5, 0))
    axes.set_xlabel("accuracy over all tasks after the last contribution, %")
    axes.set_title(outcome.stream)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _matrices(stream: str, runs: Sequence[Run], folder: Path) -> Path:
    path = folder / f"{stream}-matrices.png"
    columns = min(len(runs), 4)
    lines = -(-len(runs) // columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(3 * columns, 2.8 * lines), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, run in zip(grid.flat, runs, strict=False):
        _heat(axes, run)
    figure.suptitle(f"{stream}: accuracy on each task (across) after each arrival (down)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _heat(axes: pyplot.Axes, run: Run) -> None:
    values = np.array([[np.nan if v is None else v for v in line] for line in run.matrix])
    axes.axis("on")
    axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    axes.set_title(f"{run.row}: {100 * run.mean:.1f}", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
