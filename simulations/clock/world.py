"""What nodes share in virtual time: the clock, messages, transfers, what each has made known."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from weft.simulations.clock.events import Action, Clock
from weft.simulations.clock.flows import Network
from weft.simulations.clock.links import LaidLinks
from weft.simulations.clock.presence import Presence
from weft.simulations.errors import BadOption

Link: TypeAlias = tuple[int, int]
"""Sender and receiver."""


@dataclass(slots=True, eq=False)
class Transfer:
    """An artifact on its way; see `World.fetch`."""

    link: Link
    size: float
    moved: dict[Link, float]
    then: Action
    again: bool
    name: int | None = None
    is_over: bool = False


@dataclass(slots=True, eq=False)
class World:
    """One run's surroundings.

    Args:
        presence: who is there, and who reaches whom.
        links: between all nodes.
        nodes: how many.
    """

    presence: Presence
    links: LaidLinks
    nodes: int
    clock: Clock = field(default_factory=Clock)
    network: Network = field(init=False)
    _posted: dict[Hashable, float] = field(default_factory=dict)
    _asked: dict[Hashable, list[Callable[[float], None]]] = field(default_factory=dict)
    _known: dict[Link, tuple[float, float]] = field(default_factory=dict)
    _transfers: dict[Link, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        apart = None if self.presence.is_perfect else self.presence.apart
        self.network = Network(self.links.up, self.links.down, apart)
        self._watch()

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let time pass until all is done.

        Raises:
            BadOption: nothing will ever happen any more, and not all is done.
        """
        while not is_over():
            self.network.settle(self.clock.now)
            moment = min(self.clock.next_moment, self.network.next_end)
            if math.isinf(moment):
                raise BadOption(
                    f"after {self.clock.now:g} s nothing happens any more and the run is not "
                    "done: a node that others wait for is away or cut off for ever"
                )
            self.clock.now = moment
            for action in self.network.ended(moment):
                action()
            self.clock.run(moment)

    def _watch(self) -> None:
        """Wake the network whenever somebody leaves, comes, or is cut off."""
        self.network.change()
        self.clock.at(self.presence.next_change(self.clock.now), self._watch)

    # -- messages ------------------------------------------------------------

    def post(self, what: Hashable) -> None:
        """Something is known from now on at the node that made it."""
        now = self._posted[what] = self.clock.now
        for tell in self._asked.pop(what, []):
            tell(now)

    def ask(self, asker: int, holder: int, what: Hashable, then: Action) -> None:
        """Ask a node for what it may not know yet; `then` once its answer is here.

        A request waits at the holder until there is an answer, as the daemon's long polls do.
        """
        came = self.delivered(asker, holder, self.clock.now)

        def answer(known: float) -> None:
            self.clock.at(self.delivered(holder, asker, max(came, known)), then)

        if what in self._posted:
            answer(self._posted[what])
        else:
            self._asked.setdefault(what, []).append(answer)

    def delivered(self, sender: int, receiver: int, sent: float) -> float:
        """When a small message arrives: latency, after all that keeps the two apart."""
        return self.presence.reached(sender, receiver, sent) + self._link(sender, receiver)[1]

    def _link(self, sender: int, receiver: int) -> tuple[float, float]:
        """Bytes a second and seconds one way of a link."""
        found = self._known.get((sender, receiver))
        if found is None:
            ends = np.array([sender], dtype=np.int32), np.array([receiver], dtype=np.int32)
            rate, latency = self.links.rates(*ends)[0], self.links.latencies(*ends)[0]
            found = self._known[sender, receiver] = float(rate), float(latency)
        return found

    # -- transfers -----------------------------------------------------------

    def fetch(
        self,
        link: Link,
        size: float,
        then: Action,
        moved: dict[Link, float],
        *,
        manifests: int = 1,
        again: bool = True,
    ) -> Transfer:
        """Bring an artifact from its holder: manifest, request, bytes.

        Args:
            link: holder and receiver.
            size: bytes.
            then: called when the last byte has arrived.
            moved: where the bytes are counted.
            manifests: round trips before the bytes are asked for.
            again: whether a transfer that comes to nothing is made again.
        """
        transfer = Transfer(link, size, moved, then, again)
        self._begin(transfer, manifests)
        return transfer

    def drop(self, transfer: Transfer) -> None:
        """End a transfer that is not done; what it moved is counted."""
        transfer.is_over = True
        if transfer.name is not None:
            self._count(transfer, self.network.cancel(transfer.name, self.clock.now))
            transfer.name = None

    def _begin(self, transfer: Transfer, manifests: int) -> None:
        holder, receiver = transfer.link
        moment = self.clock.now
        for _ in range(manifests):
            moment = self.delivered(holder, receiver, self.delivered(receiver, holder, moment))
        self.clock.at(self.delivered(receiver, holder, moment), lambda: self._move(transfer))

    def _move(self, transfer: Transfer) -> None:
        if transfer.is_over:
            return
        transfer.name = self.network.start(
            *transfer.link,
            limit=self._link(*transfer.link)[0],
            size=transfer.size,
            then=lambda: self._moved(transfer),
        )

    def _moved(self, transfer: Transfer) -> None:
        transfer.name = None
        self._count(transfer, transfer.size)
        number = self._transfers[transfer.link] = self._transfers.get(transfer.link, -1) + 1
        if not self.links.loses(*transfer.link, number):
            self.clock.at(self.delivered(*transfer.link, self.clock.now), transfer.then)
        elif transfer.again:
            self._begin(transfer, 0)

    def _count(self, transfer: Transfer, amount: float) -> None:
        transfer.moved[transfer.link] = transfer.moved.get(transfer.link, 0.0) + amount
