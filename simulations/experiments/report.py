"""An experiment's report: the figures, the pictures, what was asked for, in one page."""

import json
from collections.abc import Sequence

from weft.simulations.experiments.cells import Experiment
from weft.simulations.experiments.plots import Picture
from weft.simulations.experiments.tables import Line, Spread
from weft.simulations.pages import page, picture, section, table, text

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

_ABOUT = (
    "<p>Means over the seeds, and the deviation of a sample. <em>Accuracy</em> is that with which "
    "a cell ends: of the merged model where there is a final merge, else the mean of the nodes. "
    "<em>Nodes</em> and <em>merged</em> are after the last round: the mean of the nodes, each "
    "with its own model, and what the mean of all models scores.</p>"
)
_ABOUT_CONTRACTION = (
    "<p>By what exchanges multiply the consensus distance a round: as the spectrum predicts for "
    "the slowest direction, and as it was measured in the later half of the rounds. Training "
    "pushes in all directions, so that less is left than predicted is as it should be.</p>"
)


def write_report(
    experiment: Experiment, lines: Sequence[Line], pictures: Sequence[Picture], *, drawn: bool
) -> str:
    """The page.

    Args:
        experiment: what was run.
        lines: the summary.
        pictures: those of topologies are shown side by side.
        drawn: whether pictures could be drawn at all.
    """
    shown = [each for each in pictures if not _is_topology(each)]
    small = [each for each in pictures if _is_topology(each)]
    body = [
        _heading(experiment, drawn),
        section("Final figures", _ABOUT + _figures(lines)),
        *(section(each.title, f"<p>{text(each.about)}</p>" + _image(each)) for each in shown),
        section("Contraction", _ABOUT_CONTRACTION + _contraction(lines)),
        '<div class="row">',
        *(section(each.title, _image(each)) for each in small),
        "</div>",
        section("Cells", _cells(experiment)),
    ]
    return page(f"weft: {experiment.name}", body)


def spread_text(spread: Spread | None, style: str = ".4g") -> str:
    """`0.912 ± 0.004`; empty where it is not known."""
    if spread is None:
        return ""
    mean = format(spread.mean, style)
    return mean if spread.deviation is None else f"{mean} ± {format(spread.deviation, style)}"


def bytes_text(count: float) -> str:
    """Bytes for a person, in thousands: `bytes_text(1536)` is "1.54 kB"."""
    for unit in UNITS:
        if abs(count) < 1000 or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def _heading(experiment: Experiment, drawn: bool) -> str:
    seeds = {cell.settings.experiment.seed for cell in experiment.cells}
    engines = dict.fromkeys(cell.settings.experiment.engine for cell in experiment.cells)
    missing = "" if drawn else "<p>No pictures: matplotlib is not installed.</p>"
    return (
        f"<h1>{text(experiment.name)}</h1>"
        f'<p class="faint">{len(experiment.cells)} cells, {len(experiment.studies)} studies, '
        f"{len(seeds)} seeds; engine {text(', '.join(engines))}.</p>{missing}"
    )


def _figures(lines: Sequence[Line]) -> str:
    timed = any("seconds" in line.figures for line in lines)
    heads = ["", "accuracy", "nodes", "merged", "worst node", "distance", "bytes"]
    heads += ["predicted time", "seeds"] if timed else ["seeds"]
    rows = [
        [
            text(line.name),
            *(_percent(line, f"accuracy{each}") for each in ("", "_mean", "_merged", "_worst")),
            spread_text(line.figures.get("distance"), ".3g"),
            bytes_text(line.figures["bytes"].mean) if "bytes" in line.figures else "",
            *([_time(line)] if timed else []),
            str(line.seeds) + (f", {line.diverged} diverged" if line.diverged else ""),
        ]
        for line in lines
    ]
    return table(heads, rows)


def seconds_text(seconds: float) -> str:
    """Time for a person: `seconds_text(5400)` is "1.5 h"."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} d"


def _time(line: Line) -> str:
    found = line.figures.get("seconds")
    return "" if found is None else seconds_text(found.mean)


def _contraction(lines: Sequence[Line]) -> str:
    keys = ("spectral_gap", "contraction_predicted", "contraction_measured")
    rows = [
        [text(line.name), *(spread_text(line.figures.get(key), ".3f") for key in keys)]
        for line in lines
    ]
    return table(["", "spectral gap", "predicted", "measured"], rows)


def _cells(experiment: Experiment) -> str:
    rows = [
        [
            f"<code>{cell.id}</code>",
            text(cell.line),
            str(cell.settings.experiment.seed),
            f"<code>{text(json.dumps(cell.settings.plain(), sort_keys=True))}</code>",
        ]
        for cell in experiment.cells
    ]
    inside = table(["cell", "line", "seed", "settings"], rows, numbers_from=9)
    return (
        f"<details><summary>{len(rows)} cells, and all their settings</summary>{inside}</details>"
    )


def _percent(line: Line, key: str) -> str:
    return spread_text(line.figures.get(key), ".1%")


def _image(shown: Picture) -> str:
    return picture(shown.png, shown.title)


def _is_topology(shown: Picture) -> bool:
    return shown.name.startswith("topology")
