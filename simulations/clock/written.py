"""Machines and links as a TOML table writes them.

[time]
slowness = { median = 1.0, sigma = 0.3 }
stragglers = 0.1
up_mbit = 200
latency_ms = 30
absences = [{ node = 3, from_s = 600, to_s = 900 }]
partitions = [{ groups = [[0, 1], [2, 3]], from_s = 100, to_s = 160 }]
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from weft.simulations.clock.links import Links
from weft.simulations.clock.machines import Machines
from weft.simulations.clock.presence import Absence, Churn, Partition
from weft.simulations.clock.quantities import written_quantity
from weft.simulations.errors import BadOption
from weft.topology.errors import unknown

T = TypeVar("T")

_QUANTITIES = {"slowness", "bandwidth_mbit", "latency_ms", "up_mbit", "down_mbit"}


def machines_and_links(
    table: Mapping[str, object], folder: Path | None = None
) -> tuple[Machines, Links]:
    """Read one table that holds options of both.

    Args:
        table: of a TOML file; keys are the fields of `Machines` and `Links`.
        folder: where a relative `matrix` counts from.

    Raises:
        BadOption: an unknown key (the nearest is named), or a value that cannot be.
    """
    names = {kind: [field.name for field in dataclasses.fields(kind)] for kind in (Machines, Links)}
    for key in table:
        known = [*names[Machines], *names[Links]]
        if key not in known:
            raise BadOption(unknown("option", key, known))
    parts = {
        kind: {key: _read(key, table[key], folder) for key in found if key in table}
        for kind, found in names.items()
    }
    return Machines(**parts[Machines]), Links(**parts[Links])


def _read(key: str, value: object, folder: Path | None) -> Any:
    match key:
        case "absences":
            return tuple(_built(key, Absence, one) for one in _listed(key, value))
        case "partitions":
            return tuple(_built(key, _partition, one) for one in _listed(key, value))
        case "churn":
            return _built(key, Churn, value)
        case "matrix":
            if not isinstance(value, str | Path):
                raise BadOption(f"matrix: found {value!r}, expected a path")
            return (folder or Path()) / value
        case _:
            found = written_quantity(key, value)
            if key not in _QUANTITIES and not isinstance(found, float):
                raise BadOption(f"{key}: found {value!r}, expected a number")
            return found


def _listed(key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise BadOption(f"{key}: found {value!r}, expected a list of tables")
    return value


def _built(key: str, make: Callable[..., T], value: object) -> T:
    if not isinstance(value, Mapping):
        raise BadOption(f"{key}: found {value!r}, expected a table")
    keys = list(inspect.signature(make).parameters)
    if set(value) != set(keys):
        raise BadOption(
            f"{key}: found a table with {', '.join(value) or 'nothing'}, expected {', '.join(keys)}"
        )
    try:
        return make(**value)
    except TypeError:
        raise BadOption(
            f"{key}: found {dict(value)}, expected numbers"
            + (", and groups as lists of nodes" if key == "partitions" else "")
        ) from None


def _partition(groups: list[list[int]], from_s: float, to_s: float) -> Partition:
    return Partition(groups=tuple(tuple(group) for group in groups), from_s=from_s, to_s=to_s)
