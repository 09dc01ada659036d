"""The links of a forecast: how fast bytes move, and what holds them up."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weft.simulations.clock.presence import Partition
from weft.simulations.clock.quantities import (
    Draw,
    LogNormal,
    Quantity,
    check_quantity,
    fractions,
    per_node,
)
from weft.simulations.errors import BadData, BadOption
from weft.topology.edges import Float64, Int32

MBIT = 1e6 / 8
"""Bytes a second."""

_KEY = 2**31
_ARRAYS = ("bandwidth_mbit", "latency_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What lies between nodes; a link is one direction of a pair.

    A transfer moves at the rate that max-min fairness gives it: nobody could have more
    without taking it from a transfer that has no more. It is bounded by its link, and it
    shares its sender's way up and its receiver's way down with all that use them then.

    Attributes:
        bandwidth_mbit: Mbit/s (10^6 bits) of each link, whatever else its ends do.
        latency_ms: one way, of each link.
        matrix: a file with figures for each link, in place of the two above: an .npz with
            `bandwidth_mbit` or `latency_ms` or both, each (nodes, nodes), sender by
            receiver; or a .csv with the bandwidths, a sender a row. Diagonals do not count.
        up_mbit, down_mbit: Mbit/s of a node, shared by its transfers; infinite if left out.
        loss: the chance that a transfer comes to nothing, drawn for each. Under `wait`, and
            in the global merge, it is made again, whole; under `deadline` the edge is missed.
        partitions: when sets of nodes do not reach each other. Transfers stand still then
            and go on afterwards.
        codec_ratio: bytes on the wire for one byte of a model.

    Raises:
        BadOption: a figure out of range; names it.
    """

    bandwidth_mbit: float | LogNormal = math.inf
    latency_ms: float | LogNormal = 0.0
    matrix: Path | None = None
    up_mbit: Quantity = math.inf
    down_mbit: Quantity = math.inf
    loss: float = 0.0
    partitions: tuple[Partition, ...] = field(default=())
    codec_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("bandwidth_mbit", "up_mbit", "down_mbit"):
            check_quantity(name, getattr(self, name), least=0, above=True)
        check_quantity("latency_ms", self.latency_ms, least=0)
        for name in _ARRAYS:
            if isinstance(getattr(self, name), tuple):
                raise BadOption(
                    f"{name}: found a list, expected one figure or a distribution; give figures "
                    "of single links as a matrix"
                )
        if self.latency_ms == math.inf:
            raise BadOption("latency_ms: found inf, expected a finite number")
        if not 0 <= self.loss < 1:
            raise BadOption(f"loss: found {self.loss}, expected a chance of 0 to below 1")
        if not 0 < self.codec_ratio < math.inf:
            raise BadOption(f"codec_ratio: found {self.codec_ratio}, expected above 0")

    def laid(self, nodes: int, seed: int) -> "LaidLinks":
        """The links between so many nodes, drawn from a seed.

        Raises:
            BadData: the matrix cannot be read, or is not (nodes, nodes) of such figures.
            BadOption: a list of another length.
        """
        arrays = {} if self.matrix is None else read_matrix(self.matrix, nodes)
        return LaidLinks(
            up=per_node(self.up_mbit, nodes, Draw.UP, seed) * MBIT,
            down=per_node(self.down_mbit, nodes, Draw.DOWN, seed) * MBIT,
            bandwidth=arrays.get("bandwidth_mbit", self.bandwidth_mbit),
            latency=arrays.get("latency_ms", self.latency_ms),
            loss=self.loss,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaidLinks:
    """Links whose figures are known; see `Links.laid`.

    Attributes:
        up, down: bytes a second of each node, (nodes,) float64.
        bandwidth: Mbit/s of links: one for all, drawn, or (nodes, nodes) sender by receiver.
        latency: milliseconds one way, likewise.
        loss: the chance that a transfer comes to nothing.
        seed: of what is drawn.
    """

    up: Float64
    down: Float64
    bandwidth: float | LogNormal | Float64
    latency: float | LogNormal | Float64
    loss: float
    seed: int

    def rates(self, senders: Int32, receivers: Int32) -> Float64:
        """Bytes a second of links, each by itself: (links,) float64."""
        return self._of(self.bandwidth, Draw.BANDWIDTH, senders, receivers) * MBIT

    def latencies(self, senders: Int32, receivers: Int32) -> Float64:
        """Seconds one way: (links,) float64."""
        return self._of(self.latency, Draw.LATENCY, senders, receivers) / 1e3

    def loses(self, sender: int, receiver: int, transfer: int) -> bool:
        """Whether the n-th transfer of a link comes to nothing."""
        if not self.loss:
            return False
        key = link_keys(np.array([sender]), np.array([receiver]))
        return bool(fractions(self.seed, Draw.LOSS, key, transfer)[0] < self.loss)

    def _of(
        self, what: float | LogNormal | Float64, draw: Draw, senders: Int32, receivers: Int32
    ) -> Float64:
        if isinstance(what, LogNormal):
            return what.at(fractions(self.seed, draw, link_keys(senders, receivers)))
        if isinstance(what, np.ndarray):
            return np.asarray(what[senders, receivers])
        return np.full(len(senders), what, dtype=np.float64)


def link_keys(senders: NDArray[np.integer], receivers: NDArray[np.integer]) -> NDArray[np.int64]:
    """A number for each link, whatever the number of nodes: (links,) int64."""
    return np.asarray(senders.astype(np.int64) * _KEY + receivers.astype(np.int64))


def read_matrix(path: Path, nodes: int) -> dict[str, Float64]:
    """The figures of a matrix file, by name; see `Links.matrix`.

    Raises:
        BadData: no such file, other arrays, another shape, or figures that cannot be.
    """
    arrays = _read_npz(path) if path.suffix == ".npz" else {"bandwidth_mbit": _read_csv(path)}
    if not arrays or not set(arrays) <= set(_ARRAYS):
        raise BadData(
            f"{path}: found the arrays {sorted(arrays)}, expected bandwidth_mbit, latency_ms "
            "or both"
        )
    for name, array in arrays.items():
        if array.shape != (nodes, nodes):
            raise BadData(
                f"{path}: {name}: found shape {array.shape}, expected ({nodes}, {nodes}), "
                "sender by receiver"
            )
        between = array[~np.eye(nodes, dtype=np.bool_)]
        if not ((between > 0) if name == "bandwidth_mbit" else (between >= 0)).all():
            raise BadData(f"{path}: {name}: found a figure that is no number or too small")
    return arrays


def _read_npz(path: Path) -> dict[str, Float64]:
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: np.asarray(held[name], dtype=np.float64) for name in held.files}
    except (OSError, ValueError) as failed:
        raise BadData(f"{path}: cannot be read as .npz: {failed}") from None


def _read_csv(path: Path) -> Float64:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = [[float(cell) for cell in row] for row in csv.reader(lines) if row]
        return np.array(rows, dtype=np.float64)
    except (OSError, ValueError) as failed:
        raise BadData(f"{path}: cannot be read as rows of numbers: {failed}") from None
