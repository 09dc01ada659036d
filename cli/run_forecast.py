"""What a run will move, before anything moves: messages, bytes and seconds a round.

The very schedule of the run is counted, round by round. Bytes are an upper bound:
a message counts as a whole model, a lossless delta is rarely larger and usually
smaller. Seconds are those of the busiest link at a given bandwidth, each way;
latency and everybody's training come on top.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from weft.cli.output import size
from weft.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weft.cli.output import Json
    from weft.protocol.run import RunSpec
    from weft.topology.schedules import Schedule

_BITS = {
    **{"bit": 1e0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12},
    **{"bps": 1e0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9, "tbps": 1e12},
}
_BYTES = {"b": 8e0, "kb": 8e3, "mb": 8e6, "gb": 8e9}
_SIZES = {
    **{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}
_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one round moves.

    Attributes:
        messages: models that move between nodes.
        bytes: of all of them.
        busiest_bytes: of the node that moves most, the larger of its two directions.
    """

    messages: int
    bytes: int
    busiest_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A run's loads; `final` is the global merge, None where there is none."""

    run: str
    nodes: int
    model_bytes: int
    rounds: tuple[Load, ...]
    final: Load | None
    bandwidth_bit_s: float | None

    @property
    def total(self) -> Load:
        """All rounds and the global merge, one after the other."""
        loads = [*self.rounds, *([self.final] if self.final else [])]
        return Load(
            messages=sum(load.messages for load in loads),
            bytes=sum(load.bytes for load in loads),
            busiest_bytes=sum(load.busiest_bytes for load in loads),
        )

    def seconds(self, load: Load) -> float | None:
        """How long the busiest link is busy; None without a bandwidth."""
        if self.bandwidth_bit_s is None:
            return None
        return load.busiest_bytes * 8 / self.bandwidth_bit_s


def forecast(spec: "RunSpec", model_bytes: int, bandwidth_bit_s: float | None) -> Forecast:
    """Count what a run's schedule moves; every node that was asked for takes part.

    Args:
        spec: the run.
        model_bytes: of one model.
        bandwidth_bit_s: of a node's link, each way; None: no seconds.

    Raises:
        InvalidInput: a graph, weights or schedule that cannot be; names the nearest.
    """
    from weft.protocol.scheduling import schedule_before

    schedule = schedule_before(spec)
    schedule.check()
    return Forecast(
        run=spec.name,
        nodes=spec.nodes,
        model_bytes=model_bytes,
        rounds=tuple(_load(schedule, number, model_bytes) for number in range(spec.rounds)),
        final=_final(spec, model_bytes) if spec.final.enabled else None,
        bandwidth_bit_s=bandwidth_bit_s,
    )


def _load(schedule: "Schedule", number: int, model_bytes: int) -> Load:
    import numpy as np

    if not schedule.mixes(number):
        return Load(messages=0, bytes=0, busiest_bytes=0)
    mixing = schedule.mixing(number)
    moved = [ends[mixing.between] for ends in (mixing.receivers, mixing.senders)]
    busiest = max(int(np.bincount(ends, minlength=1).max()) for ends in moved)
    return Load(
        messages=mixing.messages,
        bytes=mixing.messages * model_bytes,
        busiest_bytes=busiest * model_bytes,
    )


def _final(spec: "RunSpec", model_bytes: int) -> Load:
    """Each node folds a share of 1/n for all, then pulls the other shares.

    It takes its share from n - 1 others, and n - 1 merged shares: 2 (n - 1) / n of
    a model each way, whatever n. Where the run aligns, all but the anchor take its n
    slices before.
    """
    nodes = spec.nodes
    each = 2 * (nodes - 1) * model_bytes // nodes
    anchored = nodes - 1 if spec.merge.aligns else 0
    return Load(
        messages=2 * nodes * (nodes - 1) + anchored * nodes,
        bytes=2 * (nodes - 1) * model_bytes + anchored * model_bytes,
        busiest_bytes=each + anchored * model_bytes,
    )


def bandwidth(text: str) -> float:
    """`200Mbit` in bits a second; MB and the like are bytes a second.

    Raises:
        InvalidInput: not a number with a unit.
    """
    return _with_unit(text, {**_BITS, **_BYTES}, "a bandwidth such as 200Mbit, 1Gbit or 25MB")


def byte_count(text: str) -> int:
    """`1.5GiB` in bytes; a bare number is bytes.

    Raises:
        InvalidInput: not a number with a unit.
    """
    return int(_with_unit(text, _SIZES, "a size such as 250MB or 1.5GiB"))


def _with_unit(text: str, units: dict[str, float], expected: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)(?:/s)?", text.strip())
    unit = None if found is None else units.get(found[2].lower())
    if found is None or unit is None or float(found[1]) <= 0:
        raise InvalidInput(f"{text!r}: expected {expected}")
    return float(found[1]) * unit


def document(found: Forecast) -> "Json":
    """A forecast as JSON."""
    return {
        "run": found.run,
        "nodes": found.nodes,
        "model_bytes": found.model_bytes,
        "bandwidth_bit_s": found.bandwidth_bit_s,
        "rounds": [
            {"round": number, **_load_document(found, load)}
            for number, load in enumerate(found.rounds)
        ],
        "final": None if found.final is None else _load_document(found, found.final),
        "total": _load_document(found, found.total),
    }


def _load_document(found: Forecast, load: Load) -> "dict[str, Json]":
    return {
        "messages": load.messages,
        "bytes": load.bytes,
        "busiest_node_bytes": load.busiest_bytes,
        "seconds": found.seconds(load),
    }


def table(found: Forecast) -> "RenderableType":
    """A forecast for people; rounds that are alike share a line."""
    from rich.table import Table

    title = f"{found.run}: {found.nodes} nodes, a model of {size(found.model_bytes)} (upper bound)"
    drawn = Table(title=title, title_justify="left")
    for name in ("round", "messages", "bytes", "busiest node", "seconds"):
        drawn.add_column(name, justify="left" if name == "round" else "right")
    rows = list(_alike(found.rounds))
    for name, load in rows[:_ROWS]:
        drawn.add_row(name, *_cells(found, load))
    if len(rows) > _ROWS:
        drawn.add_row(f"... {len(rows) - _ROWS} more lines (--json has all)", "", "", "", "")
    if found.final is not None:
        drawn.add_row("global merge", *_cells(found, found.final))
    drawn.add_section()
    drawn.add_row("total", *_cells(found, found.total))
    return drawn


def _alike(rounds: tuple[Load, ...]) -> Iterator[tuple[str, Load]]:
    for load, group in groupby(enumerate(rounds), key=lambda pair: pair[1]):
        numbers = [number for number, _ in group]
        first, last = numbers[0], numbers[-1]
        yield (str(first) if first == last else f"{first} to {last}, each"), load


def _cells(found: Forecast, load: Load) -> tuple[str, str, str, str]:
    seconds = found.seconds(load)
    return (
        str(load.messages),
        size(load.bytes),
        size(load.busiest_bytes),
        "-" if seconds is None else f"{seconds:.1f}",
    )
