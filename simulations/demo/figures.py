"""The report's pictures, as SVG text that stands in an HTML page."""

import importlib.util
import math
from collections.abc import Mapping, Sequence

from weft.simulations.canvas import DYE, INK, REED, WARP, WEFT, Canvas, circle, over_rounds
from weft.simulations.demo.outcome import Edge, Outcome
from weft.simulations.errors import MissingExtra


def require_matplotlib() -> None:
    """Complain before a demo starts, not when it is over.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("the report's pictures need matplotlib: pip install 'weft[demo]'")


def topology(names: Sequence[str], edges: Mapping[Edge, int]) -> str:
    """The nodes on a circle, and who took from whom; thicker is more bytes."""
    canvas = Canvas(4.2, 4.2)
    places = dict(zip(names, circle(len(names)), strict=True))
    most = max(edges.values(), default=1)
    for (sender, receiver), count in edges.items():
        (x0, y0), (x1, y1) = places[sender], places[receiver]
        canvas.axes.plot(
            [x0, x1], [y0, y1], color=WARP, linewidth=0.8 + 2.2 * count / most, alpha=0.55, zorder=1
        )
    for name, (x, y) in places.items():
        canvas.axes.scatter([x], [y], s=620, color="white", edgecolors=INK, zorder=2)
        canvas.axes.text(x, y, name.removeprefix("node-"), ha="center", va="center", zorder=3)
    canvas.axes.set_axis_off()
    canvas.axes.set_aspect("equal")
    canvas.axes.margins(0.2)
    return canvas.svg("who exchanged with whom")


def accuracy(outcome: Outcome) -> str:
    """Accuracy over the rounds: merged, alone, central, and the mean nobody merged."""
    canvas = Canvas(7.6, 4.2)
    axes = canvas.axes
    for story in outcome.stories:
        points = [math.nan if done.accuracy is None else done.accuracy for done in story.rounds]
        axes.plot(_rounds(points), points, color=WARP, linewidth=0.9, alpha=0.5)
    axes.plot([], [], color=WARP, label="nodes, merging with neighbours")
    alone = [sum(values) / len(values) for values in zip(*outcome.alone, strict=True)]
    axes.plot(_rounds(alone), alone, color=WEFT, linestyle="--", label="mean of nodes alone")
    means = outcome.counterfactual
    axes.plot(_rounds(means), means, color=DYE, linewidth=1.2, label="mean of all contributions")
    together = outcome.together
    axes.plot(_rounds(together), together, color=REED, linestyle=":", label="all data in one place")
    end, final = len(together), outcome.global_merged[0]
    axes.scatter([end], [final], color=INK, zorder=4, label=f"global merge {final:.1%}")
    over_rounds(axes, "accuracy on the shared test set")
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    return canvas.svg("accuracy over rounds")


def distance(outcome: Outcome) -> str:
    """Consensus distance over the rounds, before and after merging."""
    canvas = Canvas(7.6, 3.2)
    axes = canvas.axes
    axes.plot(_rounds(outcome.before), outcome.before, color=WEFT, label="before merging")
    axes.plot(_rounds(outcome.after), outcome.after, color=WARP, label="after merging")
    over_rounds(axes, "consensus distance")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", fontsize=9, frameon=False)
    return canvas.svg("consensus distance over rounds")


def bytes_by_edge(names: Sequence[str], edges: Mapping[Edge, int]) -> str:
    """Who sent how much to whom, as a square of shades."""
    side = 2.2 + 0.5 * min(len(names), 16)
    canvas = Canvas(side, side)
    axes = canvas.axes
    table = [[edges.get((sender, receiver), 0) / 1024 for receiver in names] for sender in names]
    axes.imshow(table, cmap="Blues", vmin=0)
    most = max((value for row in table for value in row), default=0)
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            if value and len(names) <= 16:
                colour = "white" if value > 0.6 * most else INK
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9)
    labels = [name.removeprefix("node-") for name in names]
    axes.set_xticks(range(len(names)), labels)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("to node")
    axes.set_ylabel("from node")
    return canvas.svg("KiB of contributions by edge")


def _rounds(values: Sequence[float]) -> list[int]:
    return list(range(1, len(values) + 1))
