"""What an exchange moves over the network: messages and bytes, from the matrices alone.

>>> all_reduce(nodes=8, size=1000)
Traffic(messages=14, bytes=56000.0)
"""

from dataclasses import dataclass

from weft.topology.matrices import Mixing

FLOAT32 = 4.0
"""Bytes of a parameter."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of all nodes together.

    Attributes:
        messages: models that moved, or what a rule sends in a model's place.
        bytes: of those.
    """

    messages: int
    bytes: float


def messages(mixing: Mixing, message_bytes: float) -> Traffic:
    """One message for each entry of W between two nodes."""
    return Traffic(mixing.messages, mixing.messages * message_bytes)


def models(mixing: Mixing, size: int) -> Traffic:
    """A model of `size` float32 parameters for each entry of W between two nodes."""
    return messages(mixing, FLOAT32 * size)


def all_reduce(nodes: int, size: int) -> Traffic:
    """The mean of all, sharded: each node folds a part of it and sends that to all others.

    Every node sends n - 1 n-ths of its model to be folded, and its folded n-th n - 1 times:
    2 (n - 1) whole models move, about two a node. A ring moves as much. So does the single
    global merge at the end of a run.
    """
    moved = 2 * (nodes - 1)
    return Traffic(moved, moved * FLOAT32 * size)
