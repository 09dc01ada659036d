"""CHOCO: gossip with compressed differences to public copies of the models."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weft.simulations.engines.exchange import Exchange
from weft.simulations.learning.compression import compressor
from weft.simulations.learning.rule import Rule
from weft.simulations.learning.traffic import Traffic, messages
from weft.topology.matrices import Mixing
from weft.topology.options import require


@dataclass
class Choco(Rule):
    """c_i <- c_i + Q(t_i - c_i); x_i <- t_i + gamma sum_j W_ij (c_j - c_i).

    t_i are the trained models, Q the compressor, c_i the public copy of node i, which it
    and its neighbours hold alike, since all of them apply the same messages. What Q loses
    stays in the difference and is sent later. W must be symmetric and stay the same: a
    node that did not hear a message of another has another copy of it.
    As in the paper, copies move before the nodes do, so that without loss and with gamma 1
    this is gossip; the code that it was released with gossips first, on the copies before.

    Attributes:
        codec: a name of `weft.checkpoints.codecs.registry`, or "top_k".
        gamma: how far to go towards the neighbours' copies: the coarser the codec, the less.
        density: of "top_k": the share of elements that is sent.
        copies: (rows, P), c. All nodes know the model that training starts from, so the
            copies start there; the paper's start from zero.

    Source: Koloskova, Stich and Jaggi 2019, "Decentralized stochastic optimization and
        gossip algorithms with compressed communication", Algorithm 2 (CHOCO-SGD).
    """

    spectral: ClassVar[bool] = False

    codec: str = "int8"
    gamma: float = 0.5
    density: float = 0.01

    def __post_init__(self) -> None:
        require(0 < self.gamma <= 1, "gamma", self.gamma, "above 0, up to 1")
        require(0 < self.density <= 1, "density", self.density, "above 0, up to 1")
        self._compressor = compressor(self.codec, self.density)

    def begin(self, rows: Tensor) -> None:
        """Copies are the initial models."""
        self.copies = rows.clone()

    def communicate(self, rows: Tensor, mixing: Mixing, exchange: Exchange) -> None:
        """Bring the copies nearer, then go towards those of the neighbours."""
        if not mixing.messages:
            return
        for copy, row in zip(self.copies, rows, strict=True):
            copy += self._compressor.kept(row - copy)
        rows += self.gamma * (exchange.mixed(self.copies, mixing) - self.copies)

    def traffic(self, mixing: Mixing, size: int) -> Traffic:
        """A compressed difference a message."""
        return messages(mixing, self._compressor.message_bytes(size))
