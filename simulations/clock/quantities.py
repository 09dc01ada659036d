"""Figures of machines and links: one for all, one each, or drawn from a distribution.

>>> per_node(LogNormal(median=2.0, sigma=0.0), 3, Draw.SLOWNESS, seed=0)
array([2., 2., 2.])
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from weft.simulations.errors import BadOption
from weft.topology.draws import Source, Stream
from weft.topology.edges import Float64

_UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}
WIDEST = 10
"""Standard deviations of a logarithm: a factor of 20,000 is one of them."""

_HALF_STEP = 2.0**-54
"""Half of the distance between two drawn fractions: keeps them off zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """A figure whose logarithm is normal.

    Attributes:
        median: half of the values are below it; above zero.
        sigma: standard deviation of the logarithm; 0.7 is about a factor of two.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and 0 <= self.sigma <= WIDEST):
            raise BadOption(
                f"found a lognormal of median {self.median} and sigma {self.sigma}; "
                f"expected a median above 0, finite, and a sigma of 0 to {WIDEST}"
            )

    def at(self, fractions: Float64) -> Float64:
        """The values below which such fractions of all values lie."""
        return np.asarray(self.median * np.exp(self.sigma * ndtri(fractions + _HALF_STEP)))


Quantity: TypeAlias = float | tuple[float, ...] | LogNormal
"""One figure for all; one for each node, in their order; or one drawn for each."""


class Draw(IntEnum):
    """What chance is asked for; no two purposes share a draw."""

    SLOWNESS = 0
    STRAGGLERS = 1
    JITTER = 2
    BANDWIDTH = 3
    LATENCY = 4
    UP = 5
    DOWN = 6
    LOSS = 7
    CHURN = 8


_DRAWN_FOR = {
    Draw.SLOWNESS: "slowness",
    Draw.BANDWIDTH: "bandwidth_mbit",
    Draw.LATENCY: "latency_ms",
    Draw.UP: "up_mbit",
    Draw.DOWN: "down_mbit",
}


def fractions(seed: int, draw: Draw, keys: NDArray[np.int64], part: int = 0) -> Float64:
    """One fraction a key in [0, 1), whatever other keys are asked for: (keys,) float64.

    Args:
        seed: of the forecast.
        draw: the purpose.
        keys: (keys,) int64, not below 0.
        part: a round, or whatever else a draw is made anew for.
    """
    source = Source(seed=seed, round=part * len(Draw) + draw, stream=Stream.CLOCK)
    return source.fractions_of(keys)


def per_node(quantity: Quantity, nodes: int, draw: Draw, seed: int) -> Float64:
    """A quantity of each node: (nodes,) float64.

    Raises:
        BadOption: a list of another length.
    """
    if isinstance(quantity, LogNormal):
        return quantity.at(fractions(seed, draw, np.arange(nodes, dtype=np.int64)))
    if isinstance(quantity, tuple):
        if len(quantity) != nodes:
            raise BadOption(
                f"{_DRAWN_FOR[draw]}: found a list of {len(quantity)} figures for "
                f"{nodes} nodes, expected one a node"
            )
        return np.array(quantity, dtype=np.float64)
    return np.full(nodes, quantity, dtype=np.float64)


def check_quantity(
    name: str, quantity: Quantity, *, least: float, above: bool = False, finite: bool = False
) -> None:
    """Refuse figures that are too small, or no numbers.

    Args:
        name: of the option, for the message.
        quantity: as given; a distribution has checked itself.
        least: the least value.
        above: the value must be more than `least`.
        finite: it must be less than infinity.

    Raises:
        BadOption: names the option and what was found.
    """
    if isinstance(quantity, LogNormal):
        return
    for value in quantity if isinstance(quantity, tuple) else (quantity,):
        if not (value > least if above else value >= least):
            expected = f"{'above' if above else 'at least'} {least:g}"
            raise BadOption(f"{name}: found {value!r}, expected {expected}")
        if finite and value == math.inf:
            raise BadOption(f"{name}: found {value!r}, expected a finite number")


def written_quantity(name: str, value: object) -> Quantity:
    """A quantity as a TOML file has it: a number, a list, or {median = 1.0, sigma = 0.5}.

    Raises:
        BadOption: none of these; names the option.
    """
    match value:
        case bool():
            pass
        case int() | float():
            return float(value)
        case list() | tuple() if all(
            isinstance(one, int | float) and not isinstance(one, bool) for one in value
        ):
            return tuple(float(one) for one in value)
        case LogNormal():
            return value
        case Mapping() if set(value) == {"median", "sigma"}:
            return LogNormal(median=float(value["median"]), sigma=float(value["sigma"]))
    raise BadOption(
        f"{name}: found {value!r}, expected a number, a list of one a node, "
        "or {median = ..., sigma = ...}"
    )


def byte_count(size: float | str) -> float:
    """A model's bytes: a number, or a text such as "140 GB" or "1.5GiB".

    Raises:
        BadOption: no such size, or one that is not finite or below zero.
    """
    count = _count(size) if isinstance(size, str) else float(size)
    if not 0 <= count < math.inf:
        raise BadOption(
            f"model_bytes: found {size!r}, expected a number of bytes, or a size such as 140 GB"
        )
    return count


def _count(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    unit = None if found is None else _UNITS.get(found[2].lower())
    return math.nan if found is None or unit is None else float(found[1]) * unit
