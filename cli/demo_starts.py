"""`weft demo --different-starts`: one run without alignment and one with it, side by side."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weft.protocol.run import Align
    from weft.simulations.demo.settings import DemoFolder, DemoSettings
    from weft.simulations.demo.starts import Ending


def compare(settings: "DemoSettings", folder: "DemoFolder", *, keep: bool) -> "list[Ending]":
    """Run both, one after the other, each in a folder of its own below the demo's.

    Args:
        settings: the demo; it is made one of different starts.
        folder: made anew.
        keep: leave certificates, configurations and stores as well.
    """
    from weft.simulations.demo.settings import DemoFolder
    from weft.simulations.demo.stage import clear, keep_model, tidy
    from weft.simulations.demo.starts import COMPARED, apart

    clear(folder)
    endings = []
    for align in COMPARED:
        below, asked = DemoFolder(path=folder.path / align), apart(settings, align)
        clear(below)
        endings.append(_ended(asked, below, align))
        keep_model(below, asked.names[0])
        if not keep:
            tidy(below)
    return endings


def _ended(settings: "DemoSettings", folder: "DemoFolder", align: "Align") -> "Ending":
    from weft.cli.demo_history import read_story
    from weft.cli.demo_screen import screen
    from weft.simulations.demo.daemons import fleet
    from weft.simulations.demo.performance import perform
    from weft.simulations.demo.starts import Ending

    with screen(settings) as shown, fleet() as daemons:
        shown.say(f"nodes start apart, align = '{align}'")
        _, seconds = perform(settings, folder, daemons, say=shown.say, show=shown.show)
    stories = [read_story(folder, name) for name in settings.names]
    return Ending.of(align, stories, seconds)


def document(endings: "Sequence[Ending]") -> dict[str, object]:
    """The figures of both, by their alignment."""
    return {ending.align: ending.document() for ending in endings}


def table(endings: "Sequence[Ending]") -> "RenderableType":
    """A row for what is compared, a column a run."""
    from rich.table import Table

    drawn = Table(title="mean accuracy on the shared test set", title_justify="left")
    drawn.add_column("nodes that started apart")
    for ending in endings:
        drawn.add_column(f"align = '{ending.align}'", justify="right")
    for name, values in (
        ("each node alone, a round before the end", [ending.alone for ending in endings]),
        ("merged with neighbours", [ending.neighbour_merged for ending in endings]),
        ("global merge", [ending.global_merged for ending in endings]),
    ):
        drawn.add_row(name, *(f"{statistics.fmean(each):.1%}" for each in values))
    return drawn
