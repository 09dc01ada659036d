"""The contract of a rule, and the one that needs nothing: gossip."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from weft.simulations.engines.exchange import Exchange
from weft.topology.matrices import Mixing


class Rule(Protocol):
    """Makes of trained models what the nodes go on with.

    A rule may keep rows of its own between rounds (a momentum, a public copy); it is
    made anew for every run.
    """

    def begin(self, rows: Tensor) -> None:
        """Told the models (rows, P) before the first round; not to be changed."""
        ...

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """One exchange, after training.

        Args:
            rows: (rows, P) float32 trained models; left as what the nodes go on with.
            mixing: W of the round.
            exchange: reaches the other nodes.
        """
        ...

    def message_bytes(self, size: int) -> float:
        """Bytes of one message, for a model of so many parameters."""
        ...


@dataclass(slots=True)
class Gossip:
    """x_i <- sum_j W_ij x_j after local training.

    With one step a round this is D-PSGD in its adapt-then-combine form, with more it is
    local SGD on a graph (DFedAvg); with a silent schedule nodes stay alone, with the
    complete graph it is FedAvg.

    Source: Lian et al. 2017, "Can Decentralized Algorithms Outperform Centralized
        Algorithms?", Algorithm 1, but that gradients are applied before the mixing.
    """

    def begin(self, rows: Tensor) -> None:
        """Nothing is kept."""

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Mix."""
        if mixing.messages:
            rows.copy_(exchange.mixed(rows, mixing))

    def message_bytes(self, size: int) -> float:
        """A model in float32."""
        return 4.0 * size
