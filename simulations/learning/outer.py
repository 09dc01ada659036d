"""All nodes average, and go on with the mean or with an outer step towards it.

How far the nodes went since they last averaged is a gradient to an outer optimizer. H of
the papers, the steps between two exchanges, is the steps of a round times the `k` of the
schedule; the outer optimizer moves in rounds in which the schedule mixes, and in no other.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.simulations.engines.exchange import Exchange
from weft.simulations.errors import BadModel
from weft.simulations.learning.rule import Rule
from weft.simulations.learning.traffic import Traffic, all_reduce
from weft.topology.matrices import Mixing
from weft.topology.options import require


@dataclass
class AllReduce(Rule):
    """Every node goes on with the plain mean: FedAvg, or synchronous SGD with one step.

    What gossip over the complete graph does with n - 1 models a node, moved as shares:
    about two models a node.

    Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from
        decentralized data", with all clients in every round.
    """

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Average, and let everybody go on from what comes of it."""
        if mixing.messages:
            rows.copy_(self.following(exchange.mean(rows)).expand_as(rows))

    def traffic(self, mixing: Mixing, size: int) -> Traffic:
        """About two models a node, where nodes talk."""
        return all_reduce(mixing.nodes, size) if mixing.messages else Traffic(0, 0.0)

    def following(self, mean: Tensor) -> Tensor:
        """(P,) float64: what all go on with, from the mean of their models, likewise."""
        return mean


@dataclass
class OuterStep(AllReduce):
    """theta <- step(theta, D), D being theta minus the mean of the trained models."""

    def begin(self, rows: Tensor) -> None:
        """Theta is the model that all nodes start from.

        Raises:
            BadModel: they start from different ones.
        """
        if (rows != rows[0]).any():
            raise BadModel(
                "found nodes with different initial models, expected one for all, from which "
                "an outer step starts; give all nodes the same"
            )
        self._outer = rows[0].to(torch.float64, copy=True)

    def following(self, mean: Tensor) -> Tensor:
        """(P,) float64: the new theta."""
        self._outer = self.step(self._outer, self._outer - mean)
        return self._outer

    @abstractmethod
    def step(self, outer: Tensor, gradient: Tensor) -> Tensor:
        """(P,) float64: the new theta, from theta and D, both (P,) float64."""


def require_rate(lr: float) -> None:
    """Refuse an outer rate that cannot be."""
    require(0 < lr < float("inf"), "lr", lr, "above 0")


def require_momentum(name: str, found: float) -> None:
    """Refuse a share that stays of what was, where it cannot be."""
    require(0 <= found < 1, name, found, "0 to below 1")
