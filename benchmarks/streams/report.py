"""Tables, CSV files and figures of the runs."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from streams.runs import Run
from streams.statistics import Interval, nested_bootstrap

WIDTH = 28


class Outcome:
    """All runs of one stream."""

    def __init__(self, stream: str, runs: Sequence[Run]) -> None:
        self.stream = stream
        self.runs = list(runs)
        self._by_row: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            self._by_row[run.row].append(run)
        self.seeds = sorted({run.seed for run in runs})
        self.places = sorted({run.place for run in runs})

    @property
    def rows(self) -> list[str]:
        """Names, as they were run."""
        return list(self._by_row)

    def grid(self, row: str) -> list[list[float]]:
        """Final means in points, (seeds, orders); one order where there is only one."""
        found = {(run.seed, run.place): 100 * run.mean for run in self._by_row[row]}
        return [
            [found.get((seed, place), found[seed, 0]) for place in self.places]
            for seed in self.seeds
            if (seed, 0) in found
        ]

    def interval(self, row: str) -> Interval:
        """Of the final mean."""
        return nested_bootstrap(self.grid(row))

    def difference(self, row: str, other: str) -> Interval:
        """Of final means, paired over seeds and orders."""
        pairs = zip(self.grid(row), self.grid(other), strict=False)
        return nested_bootstrap(
            [[one - two for one, two in zip(*pair, strict=True)] for pair in pairs]
        )

    def transfer(self, row: str) -> Interval | None:
        """Backward transfer in points."""
        found = [[100 * run.transfer for run in self._by_row[row] if run.seed == seed
                  and run.transfer is not None] for seed in self.seeds]  # fmt: skip
        found = [each for each in found if each]
        return nested_bootstrap(found) if found else None

    def recovered(self, row: str) -> float:
        """Per cent of what experts gain over the base."""
        base, experts = self.interval("base").mean, self.interval("experts").mean
        return 100 * (self.interval(row).mean - base) / (experts - base)

    def spread(self, row: str) -> float:
        """Largest less smallest final mean over orders, the mean over seeds; points."""
        return sum(max(line) - min(line) for line in self.grid(row)) / len(self.grid(row))


def table(outcome: Outcome, best: str) -> Iterator[str]:
    """A line a row."""
    yield (
        f"{outcome.stream}: {len(outcome.seeds)} seeds x {len(outcome.places)} orders,"
        f" {len(outcome.runs[0].order)} tasks; accuracy and backward transfer in points"
    )
    yield (
        f"{'':{WIDTH}}{'accuracy':>22}{'recov. %':>10}{'of exp. %':>10}{'spread':>8}"
        f"{'transfer':>9}   {best} less this"
    )
    experts = outcome.interval("experts").mean
    for row in outcome.rows:
        found, transfer = outcome.interval(row), outcome.transfer(row)
        less = str(outcome.difference(best, row)) if best in outcome.rows and row != best else ""
        yield (
            f"{row:{WIDTH}}{found.mean:8.1f} [{found.low:5.1f}, {found.high:5.1f}]"
            f"{outcome.recovered(row):10.1f}{100 * found.mean / experts:10.1f}"
            f"{outcome.spread(row):8.1f}"
            f"{'' if transfer is None else f'{transfer.mean:+.1f}':>9}   {less}"
        ).rstrip()


def write_matrices(outcomes: Sequence[Outcome], path: Path) -> None:
    """Every accuracy that was scored: a line each."""
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(["stream", "row", "seed", "order", "after", "arrived", "task", "accuracy"])
        for outcome in outcomes:
            for run in outcome.runs:
                for after, line in enumerate(run.matrix, 1):
                    arrived = run.order[after - 1] if len(run.matrix) > 1 else ""
                    for task, value in zip(run.order, line, strict=True):
                        if value is not None:
                            start = [outcome.stream, run.row, run.seed, run.place]
                            writer.writerow([*start, after, arrived, task, f"{value:.4f}"])


def document(outcome: Outcome, best: str) -> Mapping[str, object]:
    """The table for `--json`."""
    found: dict[str, object] = {}
    for row in outcome.rows:
        mean, transfer = outcome.interval(row), outcome.transfer(row)
        less = outcome.difference(best, row) if best in outcome.rows else None
        found[row] = {
            "accuracy": [mean.mean, mean.low, mean.high],
            "recovered": outcome.recovered(row),
            "spread": outcome.spread(row),
            "transfer": None if transfer is None else transfer.mean,
            "best_less_this": None if less is None else [less.mean, less.low, less.high],
        }
    return {"stream": outcome.stream, "seeds": outcome.seeds, "rows": found}
