"""When nodes did what: the times of journal entries, from the daemons' logs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean

Moment = tuple[str, float]
"""A kind of journal entry, and when it was made: seconds since the epoch."""

STEPS = {
    "trained": ("training", "trained"),
    "publish": ("trained", "published"),
    "collect": ("published", "judged"),
    "agree": ("judged", "chosen"),
    "merge": ("chosen", "merged"),
    "evaluate": ("merged", "evaluated"),
    "announce": ("evaluated", "announced"),
    "fold": ("committed", "folded"),
    "finish": ("folded", "finished"),
}
"""Steps by their names in `Machines`, and the entries between which they lie."""


@dataclass(frozen=True, slots=True)
class Phases:
    """The journal's times of all nodes, in the order in which entries were made."""

    nodes: Sequence[Sequence[Moment]]

    @staticmethod
    def read(logs: Sequence[Path]) -> "Phases":
        """From logs of level debug."""
        return Phases([list(_moments(log)) for log in logs])

    def mean(self, step: str) -> float:
        """Seconds of a step, over all nodes and rounds."""
        return mean(seconds for node in self.nodes for seconds in _between(node, *STEPS[step]))

    def means(self, step: str) -> list[float]:
        """Seconds of a step, of each node."""
        return [mean(_between(node, *STEPS[step])) for node in self.nodes]

    def moments(self, kind: str) -> list[float]:
        """When entries of a kind were made, by all nodes."""
        return [moment for node in self.nodes for what, moment in node if what == kind]

    @property
    def seconds(self) -> float:
        """From the first node's start to the last one's end."""
        return max(self.moments("finished")) - min(self.moments("started"))

    @property
    def settle_seconds(self) -> float:
        """From the last announcement to the last commit."""
        return max(self.moments("committed")) - max(self.moments("announced"))

    @property
    def rounds_seconds(self) -> float:
        """From the first node's start to the end of the last round."""
        return max(self.moments("evaluated")) - min(self.moments("started"))


def _between(node: Sequence[Moment], first: str, last: str) -> list[float]:
    """Seconds between entries that follow each other, plans left out."""
    entries = [(kind, moment) for kind, moment in node if kind not in ("plan", "promised")]
    pairs = pairwise(entries)
    return [end - start for (one, start), (two, end) in pairs if (one, two) == (first, last)]


def _moments(log: Path) -> Iterator[Moment]:
    for line in log.read_text().splitlines():
        document = json.loads(line) if line.startswith("{") else {}
        if document.get("event") == "journalled":
            yield document["kind"], datetime.fromisoformat(document["timestamp"]).timestamp()
