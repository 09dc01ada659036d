"""Pictures by matplotlib, without a display, pyplot or its global state.

matplotlib is imported when something is drawn; it is optional.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GRID = "#1f2933", "#9aa5b1", "#e4e7eb"
WARP, WEFT, REED, DYE = "#2563ab", "#c2410c", "#4d7c0f", "#7c3aed"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "weft",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DOTS_PER_INCH = 110


class Canvas:
    """One figure with some pairs of axes side by side, in inches.

    Attributes:
        axes: the first pair.
        panels: all of them.
    """

    def __init__(self, width: float, height: float, panels: int = 1) -> None:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(STYLE):
            self._figure = Figure(figsize=(width, height), layout="constrained")
            row = self._figure.subplots(1, panels, squeeze=False)[0]
        self.panels: list[Axes] = list(row)
        self.axes = self.panels[0]

    def legend(self, columns: int) -> None:
        """One legend below all panels, for the lines of the first one."""
        import matplotlib

        handles, labels = self.axes.get_legend_handles_labels()
        with matplotlib.rc_context(STYLE):
            self._figure.legend(
                handles,
                labels,
                loc="outside lower center",
                ncols=columns,
                frameon=False,
                fontsize=9,
            )

    def svg(self, title: str) -> str:
        """The picture from its `<svg` on; a page has a prologue of its own."""
        import matplotlib

        text = StringIO()
        with matplotlib.rc_context(STYLE), _without_complaints():
            self._figure.savefig(
                text, format="svg", metadata={"Date": None, "Title": title, "Creator": None}
            )
        drawn = text.getvalue()
        return drawn[drawn.index("<svg") :]

    def png(self) -> bytes:
        """The picture as a file; nothing in it says when it was drawn, or by what."""
        import matplotlib

        data = BytesIO()
        with matplotlib.rc_context(STYLE), _without_complaints():
            self._figure.savefig(data, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        return data.getvalue()


@contextmanager
def _without_complaints() -> Iterator[None]:
    """A letter that the font lacks is drawn as a box, and nobody is told of it."""
    log = logging.getLogger("matplotlib")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            yield
    finally:
        log.setLevel(before)


def over_rounds(axes: "Axes", y: str) -> None:
    """Name the axes of a curve over rounds."""
    axes.set_xlabel("round")
    axes.set_ylabel(y)
    axes.grid(color=GRID, linewidth=0.8)
    axes.locator_params(axis="x", integer=True)


def circle(count: int) -> list[tuple[float, float]]:
    """Places on a circle, the first one on top, clockwise."""
    angles = [math.pi / 2 - 2 * math.pi * place / count for place in range(count)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]
