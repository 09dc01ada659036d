"""Neighbours' models are brought to a node's own order of units before they are mixed."""

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from weft.simulations.engines.aligner import Alignment, Aligns, Matching, Merge
from weft.simulations.engines.crew import Crew
from weft.simulations.engines.exchange import Exchange
from weft.simulations.errors import BadOption
from weft.simulations.learning.rule import Rule
from weft.topology.matrices import Mixing
from weft.topology.options import require

NONE = "none"
WAYS = ("activations", "weights", NONE)

FINAL_ANCHOR = 0
"""In whose order of units models are compared, and merged at the end."""


@dataclass
class Dimat(Rule):
    """x_i <- sum_j W_ij P_ij x_j; P_ij brings j's units to the order of i's.

    All are matched as they were before the round (Jacobi), each neighbour with the node alone,
    on the node's own examples and with the running statistics that come with the models. A
    global merge brings every model to node 0's order, each node its own on its own examples;
    distances are taken in that order too.

    Attributes:
        align: "activations", "weights" (no data), or "none", which is gossip.
        samples: at most so many examples of a node, unlabelled, for "activations".
        proxy: all nodes match on the same examples, as many in all, taken from everybody's:
            what nodes that share no data do not have, for comparison.
        nearer: units of a model stay where they are unless moving them brings its parameters
            nearer to the node's: nodes that see different classes match badly, which costs
            more than it gives where models have one order of units already.
        moved: which share of the units of neighbours' models changed place in the last exchange.

    Source: Saadati et al. 2024, "DIMAT: decentralized iterative merging-and-training for deep
        learning models", Algorithm 1. Departures: own examples, not the whole training set;
        with the complete graph each node stays its own anchor, where the released code gives
        all nodes what the first one merged; `nearer` is ours.
    """

    align: str = "activations"
    samples: int = 1000
    proxy: bool = False
    nearer: bool = False

    def __post_init__(self) -> None:
        require(self.align in WAYS, "align", self.align, " | ".join(WAYS))
        require(self.samples >= 1, "samples", self.samples, "at least 1")

    def join(self, crew: Crew) -> None:
        """Take a crew that aligns.

        Raises:
            BadOption: it does not.
        """
        if self.align == NONE:
            return
        if not isinstance(crew, Aligns):
            raise BadOption(
                f"rule dimat: {type(crew).__name__} cannot match units; take the engine local, "
                "or align = 'none'"
            )
        self._crew: Aligns = crew

    def begin(self, rows: Tensor) -> None:
        """Nothing has moved yet."""
        self.moved = 0.0

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Align, and mix."""
        self.moved = 0.0
        if not mixing.messages:
            return
        if self.align == NONE:
            rows.copy_(exchange.mixed(rows, mixing))
            return
        merged, moved = self._crew.merged(
            [
                Merge(node=node, anchor=node, terms=tuple(mixing.row(node)))
                for node in range(mixing.nodes)
            ],
            self._how,
        )
        rows.copy_(merged)
        self.moved = moved.sum().item() / mixing.messages

    def comparable(self, rows: Tensor) -> Tensor:
        """(rows, P): all models in node 0's order of units."""
        if self.align == NONE:
            return rows
        return self._crew.merged(
            [
                Merge(node=node, anchor=FINAL_ANCHOR, terms=((node, 1.0),))
                for node in range(len(rows))
            ],
            self._how,
        )[0]

    @property
    def _how(self) -> Alignment:
        return Alignment(
            by=cast(Matching, self.align),
            samples=self.samples,
            proxy=self.proxy,
            nearer=self.nearer,
        )
