"""How the rows of virtual nodes reach each other: in one process, or over ranks."""

from typing import Protocol

import torch
from torch import Tensor

from weft.topology.matrices import Mixing

COLUMNS = 1 << 16
"""Columns that are mixed at a time, so that float64 copies stay small."""


class Exchange(Protocol):
    """What a rule of learning asks of an engine.

    Rows are those of the nodes that this process holds, in order. Values are float32, or
    float64 where a rule keeps some so; sums are in float64 and rounded once to the dtype
    of the rows.
    """

    def mixed(self, rows: Tensor, mixing: Mixing) -> Tensor:
        """(rows, P): each node's row of W times the rows of all nodes; `rows` stay."""
        ...

    def mean(self, rows: Tensor) -> Tensor:
        """(P,) float64: the mean over all nodes."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """(k,) float64: sums over all nodes of (rows, k) values; k is small."""
        ...

    def every(self, values: Tensor) -> Tensor:
        """(nodes,) float64: one number a node of all nodes, from (rows,) of those held here."""
        ...


class Here:
    """All nodes are in this process."""

    def mixed(self, rows: Tensor, mixing: Mixing) -> Tensor:
        """(rows, P): each node's row of W times the rows of all nodes; `rows` stay."""
        # Compressed rows of scipy: torch says that its own are a beta, and warns.
        weights = mixing.sparse()
        found = torch.empty_like(rows)
        for start in range(0, rows.shape[1], COLUMNS):
            part = rows[:, start : start + COLUMNS].double().cpu().numpy()
            found[:, start : start + COLUMNS] = torch.from_numpy(weights @ part)
        return found

    def mean(self, rows: Tensor) -> Tensor:
        """(P,) float64: the mean over all nodes."""
        found = torch.empty(rows.shape[1], dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[1], COLUMNS):
            found[start : start + COLUMNS] = rows[:, start : start + COLUMNS].double().mean(0)
        return found

    def total(self, values: Tensor) -> Tensor:
        """(k,) float64: sums over all nodes of (rows, k) values; k is small."""
        return values.double().sum(0)

    def every(self, values: Tensor) -> Tensor:
        """(nodes,) float64: one number a node of all nodes, from (rows,) of those held here."""
        return values.double()
