"""Bytes moved, by peer and direction, since the process started."""

from collections import Counter
from typing import Literal

from weft.node.metrics import NodeMetrics

Direction = Literal["sent", "received"]


class Traffic:
    """Counts what channels and server moved; passes it on to the metrics."""

    def __init__(self, metrics: NodeMetrics) -> None:
        self._metrics = metrics
        self._moved: Counter[tuple[str, Direction]] = Counter()

    def moved(self, peer: str, direction: str, count: int) -> None:
        """So many bytes went to a peer, or came from it."""
        way: Direction = "sent" if direction == "sent" else "received"
        self._moved[peer, way] += count
        self._metrics.moved(peer, way, count)

    @property
    def sent(self) -> int:
        """Bytes sent to everybody."""
        return sum(count for (_, way), count in self._moved.items() if way == "sent")

    @property
    def received(self) -> int:
        """Bytes received from everybody."""
        return sum(count for (_, way), count in self._moved.items() if way == "received")

    def by_peer(self) -> dict[str, dict[str, int]]:
        """Bytes by peer, then direction."""
        peers = sorted({peer for peer, _ in self._moved})
        return {
            peer: {"sent": self._moved[peer, "sent"], "received": self._moved[peer, "received"]}
            for peer in peers
        }
