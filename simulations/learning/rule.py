"""The contract of a rule, and the one that needs nothing: gossip."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from weft.simulations.engines.crew import Crew
from weft.simulations.engines.exchange import Exchange
from weft.simulations.learning.traffic import Traffic, models
from weft.topology.matrices import Mixing


class Rule(Protocol):
    """Makes of trained models what the nodes go on with.

    A rule may keep rows of its own between rounds (a momentum, a public copy); it is
    made anew for every run. Where nobody talks it does nothing: rows stay as they were
    trained, and what several rounds of training did counts as one at the next exchange.

    Attributes:
        spectral: the rule does no more to the models than to mix them: of their distance an
            exchange leaves what the spectrum of W allows.
        moved: which share of the units of others' models changed place in the last exchange;
            of rules that align.
    """

    spectral: ClassVar[bool] = True
    moved: float = 0.0

    def join(self, crew: Crew) -> None:
        """Told who trains, before all else; most rules need not know."""
        del crew

    def begin(self, rows: Tensor) -> None:
        """Told the models (rows, P) before the first round; not to be changed."""
        del rows

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """One exchange, after training.

        Args:
            rows: (rows, P) float32 trained models; left as what the nodes go on with.
            mixing: W of the round.
            exchange: reaches the other nodes.
        """
        ...

    def traffic(self, mixing: Mixing, size: int) -> Traffic:
        """What an exchange by this W moves, for a model of `size` parameters.

        A model in float32 for each entry of W between two nodes, where a rule does not
        say otherwise.
        """
        return models(mixing, size)

    def comparable(self, rows: Tensor) -> Tensor:
        """(rows, P): the models as they can be averaged and compared; the rows stay.

        The rows themselves, where a rule does not align.
        """
        return rows

    def mean(self, rows: Tensor, exchange: Exchange) -> Tensor:
        """(P,) float64: what a global merge of comparable rows would give; nothing changes.

        The plain mean of the models, where a rule does not say otherwise.
        """
        return exchange.mean(rows)


@dataclass(slots=True)
class Gossip(Rule):
    """x_i <- sum_j W_ij x_j after local training.

    With one step a round this is D-PSGD in its adapt-then-combine form, with more it is
    local SGD on a graph (DFedAvg); with a silent schedule nodes stay alone, with the
    complete graph it is FedAvg, with random matchings AD-PSGD without its delays, and
    with the graph `epidemic` it is EL-Local.

    Source: Lian et al. 2017, "Can Decentralized Algorithms Outperform Centralized
        Algorithms?", Algorithm 1, but that gradients are applied before the mixing.
    """

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Mix."""
        if mixing.messages:
            rows.copy_(exchange.mixed(rows, mixing))
