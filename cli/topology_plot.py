"""A schedule drawn: who takes from whom, and how the consensus distance falls."""

from pathlib import Path
from typing import TYPE_CHECKING

from weft.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from weft.topology.schedules import Schedule

TOLERANCE = 1e-3
DRAWN_NODES = 300
DRAWN_ROUNDS = 400


def draw(schedule: "Schedule", path: Path, *, gap: float, rounds: int | None) -> None:
    """Two panels: who takes from whom, and how the consensus distance falls."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidInput(
            "--plot: found no matplotlib, expected it; install weft with its extra 'plots'"
        ) from None

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    _draw_edges(left, schedule)
    _draw_distance(right, schedule, rounds)
    reached = "not reached" if rounds is None else f"after {rounds} rounds"
    right.set_title(f"gap {gap:.4f}; agreement to {TOLERANCE:g} {reached}", fontsize=10)
    figure.suptitle(
        f"{schedule.params.graph}, {schedule.nodes} nodes, weights {schedule.params.weights}, "
        f"schedule {schedule.params.schedule}"
    )
    try:
        figure.savefig(path, dpi=150)
    except (ValueError, OSError) as error:
        raise InvalidInput(f"--plot {path}: cannot be written: {error}") from error


def _draw_edges(axes: "Axes", schedule: "Schedule") -> None:
    """The edges of a period (of up to eight rounds otherwise), a colour for each round."""
    import numpy as np

    axes.set_aspect("equal")
    axes.set_axis_off()
    if schedule.nodes > DRAWN_NODES:
        axes.set_title(f"{schedule.nodes} nodes: too many to draw", fontsize=10)
        return
    angles = np.pi / 2 - 2 * np.pi * np.arange(schedule.nodes) / schedule.nodes
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    drawn = _draw_rounds(axes, schedule, places)
    axes.scatter(
        places[:, 0], places[:, 1], s=max(6, 900 / schedule.nodes), color="black", zorder=3
    )
    if schedule.nodes <= 32:
        for node, (x, y) in enumerate(places * 1.13):
            axes.text(x, y, str(node), ha="center", va="center", fontsize=8)
    axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.3, 1.3)
    way = ", one way" if schedule.directed else ""
    axes.set_title(f"edges of {drawn} round{'s' * (drawn != 1)}{way}", fontsize=10)
    if 1 < drawn <= 12:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.16, 1.0), fontsize=8, frameon=False)


def _draw_rounds(axes: "Axes", schedule: "Schedule", places: "NDArray[np.float64]") -> int:
    """The edges round by round, thicker where the weight is greater; how many rounds."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    rounds = [round for round in range(schedule.period or 8) if schedule.mixes(round)]
    colours = colormaps["viridis"](np.linspace(0, 0.85, max(1, len(rounds))))
    thin = min(1.0, 24 / schedule.nodes + 0.25)
    for colour, round in zip(colours, rounds, strict=False):
        mixing = schedule.mixing(round)
        kept = mixing.between & (schedule.directed | (mixing.receivers < mixing.senders))
        ends = np.stack([mixing.receivers[kept], mixing.senders[kept]], axis=1)
        lines = LineCollection(
            list(places[ends]),
            colors=[colour],
            linewidths=thin * (0.6 + 3 * mixing.weights[kept]),
            alpha=max(0.15, min(0.85, 60 / max(1, len(ends)))),
            label=f"round {round}",
        )
        axes.add_collection(lines)
    return len(rounds)


def _draw_distance(axes: "Axes", schedule: "Schedule", rounds: int | None) -> None:
    """The consensus distance round by round, and where agreement is."""
    from itertools import islice

    from weft.topology.agreement import distances

    until = rounds or DRAWN_ROUNDS
    falls = [1.0, *islice(distances(schedule), min(DRAWN_ROUNDS, until + 1))]
    floor = TOLERANCE / 30
    axes.semilogy([max(each, floor) for each in falls], color="tab:blue", marker=".", markersize=3)
    axes.axhline(TOLERANCE, color="grey", linestyle="--", linewidth=1)
    axes.set_ylim(floor, 1.5)
    axes.set_xlabel("rounds")
    axes.set_ylabel("consensus distance, as a share of its start")
