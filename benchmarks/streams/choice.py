"""Options of every row, chosen on tasks outside the stream."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streams.merge import Row
from streams.runs import Course

Options = Mapping[str, float | str | bool]

MORE = (0.5, 0.75, 1.0, 1.25)
TIMES = (10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True)
class Family:
    """A row's candidates: every one of the options with every one of the scales."""

    name: str
    method: str
    options: Sequence[Options]
    scales: Sequence[float] = (1.0,)
    ordered: bool = False


def families() -> Iterator[Family]:
    """All that is tried."""
    sums = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
    yield Family("SWA", "mean", [{}])
    yield Family("continual TA", "task_arithmetic", [{"scale": 1.0}], sums)
    yield Family("continual TIES", "continual_ties", [{"scale": 0.5}], (0.5, 0.75, 1.0, 1.5), True)
    yield Family("TIES", "ties", [{}], (0.5, 1.0, 1.5, 2.0, 3.0))
    yield Family("MagMax", "magmax", [{"scale": 1.0}], (0.5, 0.75, 1.0, 1.25, 1.5))
    yield Family("EMA", "ema", [{"rate": rate} for rate in (0.1, 0.2, 0.3)], ordered=True)
    for projection in ("block", "released", "rows_and_columns"):
        options = [{"projection": projection}]
        yield Family(f"OPCM {projection}", "opcm", options, (0.75, 1.0, 1.25, 1.5, 2.0), True)
    yield Family("NUFILT", "nufilt", [{"rank": rank} for rank in (64, 128)], MORE, True)
    yield Family("Iso-C", "iso_c", [{}], (0.5, 0.75, 1.0, 1.25, 1.5, 2.0))
    flow: list[Options] = [{"time": time} for time in TIMES]
    small: list[Options] = [{"side": "smaller", **each} for each in flow]
    ridge: list[Options] = [
        {"filter": "ridge", "side": "smaller", "time": time} for time in (100.0, 300.0, 1000.0)
    ]
    yield Family("WUDI inputs", "wudi", flow, MORE)
    yield Family("WUDI smaller", "wudi", small, MORE)
    yield Family("WUDI ridge", "wudi", ridge, MORE)


def tried(course: Course, only: str = "") -> Iterator[tuple[Row, float]]:
    """Every candidate and its accuracy, with one order of arrival."""
    for family in families():
        if not re.search(only, family.name):
            continue
        for options in family.options:
            rows = [
                Row(family.name, family.method, options, scale, family.ordered)
                for scale in family.scales
            ]
            runs = course.run(rows, course.names, 0, steps=False, whole=False)
            yield from zip(rows, (run.mean for run in runs), strict=True)
