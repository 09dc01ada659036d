"""An experiment's pictures, as PNG; matplotlib is optional, the extra `plots`.

Drawn again from the same outcomes they have the same bytes, with the same matplotlib.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weft.simulations.canvas import INK, WARP, Canvas, circle, over_rounds
from weft.simulations.experiments.cells import Experiment
from weft.simulations.experiments.curves import Curve, Drawn, drawn
from weft.simulations.experiments.tables import Outcome
from weft.topology.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_NODES = 300
DRAWN_ROUNDS = 8
MOST_TOPOLOGIES = 24
COLOURS = "tab20"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture.

    Attributes:
        name: of its file.
        title: what stands above it.
        about: how to read it.
        png: its bytes.
    """

    name: str
    title: str
    about: str
    png: bytes


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def pictures(experiment: Experiment, outcomes: Sequence[Outcome]) -> list[Picture]:
    """All of them; those of accuracies where some were measured."""
    lines = drawn(experiment, outcomes)
    made = []
    if any(line.own.x for line in lines):
        made += [
            Picture(
                name="accuracy.png",
                title="Accuracy over the rounds",
                about="On the test set that all share. Full: the mean of the nodes, each with its "
                "own model. Dashed: the mean of all models, which nobody holds: what a global "
                "merge would score then. Shaded: a deviation over the seeds.",
                png=_panels(lines, "accuracy", _draw_accuracy),
            ),
            Picture(
                name="bytes.png",
                title="Accuracy against bytes",
                about="Bytes of all nodes so far; the dot is where it ends, with the final merge "
                "where there is one.",
                png=_panels(lines, "accuracy", _draw_bytes),
            ),
        ]
    made.append(
        Picture(
            name="distance.png",
            title="Consensus distance",
            about="The root of the mean squared distance of the nodes' models from their mean, "
            "after each exchange. Dotted: the distance before it, times what the spectrum says "
            "that an exchange leaves at most, where all rounds are alike; in expectation where "
            "chance draws the edges.",
            png=_panels(lines, "consensus distance", _draw_distance),
        )
    )
    return [*made, *_topologies(outcomes)]


def _panels(lines: Sequence[Drawn], y: str, draw: "Callable[[Axes, Drawn, str], None]") -> bytes:
    """One panel for each value that has one, the same colour for the same label in all."""
    panels = list(dict.fromkeys(line.panel for line in lines))
    labels = list(dict.fromkeys(line.label for line in lines))
    colours = _colours(labels)
    canvas = Canvas(max(7.6, 4.2 * len(panels)), 4.2 + 0.12 * len(labels), len(panels))
    for axes, panel in zip(canvas.panels, panels, strict=True):
        over_rounds(axes, y)
        axes.set_title(panel, fontsize=10)
        for line in lines:
            if line.panel == panel:
                draw(axes, line, colours[line.label])
    canvas.legend(columns=2 if len(panels) == 1 else 4)
    return canvas.png()


def _colours(labels: Sequence[str]) -> Mapping[str, str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    table = colormaps["tab10" if len(labels) <= 10 else COLOURS]
    return {label: to_hex(table(place % table.N)) for place, label in enumerate(labels)}


def _draw_accuracy(axes: "Axes", line: Drawn, colour: str) -> None:
    _curve(axes, line.own, colour, label=line.label)
    _curve(axes, line.merged, colour, style="--")


def _draw_distance(axes: "Axes", line: Drawn, colour: str) -> None:
    _curve(axes, line.distance, colour, label=line.label)
    if line.bound is not None:
        axes.plot(line.bound.x, line.bound.mean, color=colour, linestyle=":", linewidth=1)
    if max(line.distance.mean, default=0.0) > 0:  # a logarithm wants something to show
        axes.set_yscale("log", nonpositive="mask")


def _draw_bytes(axes: "Axes", line: Drawn, colour: str) -> None:
    _curve(axes, line.own_by_bytes, colour, label=line.label)
    if line.end is not None:
        axes.scatter(*line.end, color=colour, s=28, zorder=4)
    axes.set_xscale("symlog", linthresh=4.0 * line.outcomes[0].record.parameters)
    axes.set_xlabel("bytes, all nodes")


def _curve(axes: "Axes", curve: Curve, colour: str, *, label: str = "", style: str = "-") -> None:
    few = "." if len(curve.x) < 3 else ""
    axes.plot(curve.x, curve.mean, color=colour, linestyle=style, label=label, marker=few)
    if curve.low != curve.mean:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)


def _topologies(outcomes: Sequence[Outcome]) -> Iterator[Picture]:
    """Each schedule of edges once, with the smallest seed that was run; the first few."""
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        schedule = outcome.schedule
        if not schedule.silent:
            found.setdefault(f"{schedule.params}, {schedule.nodes}", outcome)
    for place, outcome in enumerate(list(found.values())[:MOST_TOPOLOGIES]):
        schedule = outcome.schedule
        yield Picture(
            name=f"topology-{place:02d}.png",
            title=f"{schedule.params.graph}, {schedule.nodes} nodes",
            about=schedule.params.title,
            png=draw_topology(schedule),
        )


def draw_topology(schedule: Schedule) -> bytes:
    """Who takes from whom over a period, or in the first eight rounds that talk; as PNG."""
    canvas = Canvas(3.6, 3.6)
    axes = canvas.axes
    axes.set_axis_off()
    axes.set_aspect("equal")
    nodes = schedule.nodes
    if nodes > DRAWN_NODES:
        axes.text(0.5, 0.5, f"{nodes} nodes: too many to draw", ha="center", va="center")
        return canvas.png()
    places = np.array(circle(nodes))
    _draw_edges(axes, schedule, places)
    axes.scatter(places[:, 0], places[:, 1], s=max(6, 700 / nodes), color=INK, zorder=3)
    if nodes <= 32:
        for node, (x, y) in enumerate(places * 1.14):
            axes.text(x, y, str(node), ha="center", va="center", fontsize=8)
    axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.3, 1.3)
    return canvas.png()


def _draw_edges(axes: "Axes", schedule: Schedule, places: "np.typing.NDArray[np.float64]") -> None:
    """One line for two nodes that talk at all, thicker where they talk more."""
    from matplotlib.collections import LineCollection

    limit = min(schedule.rounds, schedule.period or schedule.rounds)
    rounds = [round for round in range(limit) if schedule.mixes(round)][:DRAWN_ROUNDS]
    weights: dict[tuple[int, int], float] = {}
    for round in rounds:
        mixing = schedule.mixing(round)
        for receiver, sender, weight in zip(
            mixing.receivers[mixing.between].tolist(),
            mixing.senders[mixing.between].tolist(),
            mixing.weights[mixing.between].tolist(),
            strict=True,
        ):
            ends = min(receiver, sender), max(receiver, sender)
            weights[ends] = weights.get(ends, 0.0) + weight / len(rounds)
    lines = [places[list(ends)] for ends in weights]
    widths = [0.4 + 2.5 * weight for weight in weights.values()]
    shade = max(0.15, min(0.8, 80 / max(1, len(lines))))
    axes.add_collection(LineCollection(lines, colors=WARP, linewidths=widths, alpha=shade))
