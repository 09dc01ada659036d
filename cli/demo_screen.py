"""What a demo shows while it runs: a live table on a terminal, a line now and then elsewhere."""

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from weft.cli.output import console, note, size

if TYPE_CHECKING:
    from weft.protocol.run import Report
    from weft.simulations.demo.operator import Progress
    from weft.simulations.demo.settings import DemoSettings

LINE_EVERY_S = 5.0


class Screen:
    """Draws the progress of a demo on standard error."""

    def __init__(self, settings: "DemoSettings", live: Live | None) -> None:
        self._settings = settings
        self._live = live
        self._schedule = settings.mixing_schedule()
        self._said_at = 0.0

    def say(self, text: str) -> None:
        """One line, above the table where there is one."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            note(text)

    def show(self, progress: "Progress") -> None:
        """The newest figures."""
        if self._live is not None:
            self._live.update(self.table(progress))
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            note(self.line(progress))

    def line(self, progress: "Progress") -> str:
        """The progress in a line."""
        reports = list(progress.reports.values())
        lowest = min((report.round for report in reports), default=0)
        known = [accuracy for report in reports if (accuracy := _accuracy(report)) is not None]
        mean = f", mean accuracy {statistics.fmean(known):.1%}" if known else ""
        done = min(lowest, self._settings.rounds)
        return f"{len(reports)} nodes, {done} of {self._settings.rounds} rounds done by all{mean}"

    def table(self, progress: "Progress") -> Table:
        """A row a node."""
        table = Table(title=f"weft demo: {progress.state.value}", title_justify="left")
        for column in ("node", "state"):
            table.add_column(column)
        for column in ("round", "loss", "accuracy", "peers", "sent", "received"):
            table.add_column(column, justify="right")
        for place, name in enumerate(self._settings.names):
            table.add_row(name, *self._cells(place, progress.reports))
        return table

    def _cells(self, place: int, reports: "Mapping[str, Report]") -> list[str]:
        report = reports.get(self._settings.names[place])
        if report is None or not report.state:
            return ["starting", "", "", "", "", "", ""]
        rounds = self._settings.rounds
        round = min(report.round, rounds - 1)
        peers = self._schedule.mixing(round).neighbours(place)
        loss, accuracy = report.metrics.get("loss"), _accuracy(report)
        return [
            report.state,
            f"{round + 1}/{rounds}",
            "" if loss is None else f"{loss:.3f}",
            "" if accuracy is None else f"{accuracy:.1%}",
            " ".join(self._settings.names[peer].removeprefix("node-") for peer in peers),
            size(report.bytes_sent),
            size(report.bytes_received),
        ]


@contextmanager
def screen(settings: "DemoSettings") -> Iterator[Screen]:
    """A screen that leaves its last picture behind."""
    if not sys.stderr.isatty():
        yield Screen(settings, None)
        return
    with Live(console=console(stderr=True), refresh_per_second=8) as live:
        yield Screen(settings, live)


def _accuracy(report: "Report") -> float | None:
    return report.metrics.get("accuracy")
