"""Who has been heard of lately, and for how long a decision has been waiting.

Sans-IO: every method is told `now`, seconds of a monotonic clock, and nothing
here is durable. After a restart each member gets a fresh, full lease; so it does
after a pause of this process (a stop signal, a suspended machine): a member is
never dropped because the coordinator was away.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from weft.protocol.run import NodeId, Phase


@dataclass(frozen=True, slots=True)
class _Lease:
    granted: float
    heard: bool


class Leases:
    """One lease for each member of one run.

    A lease granted is not yet a member heard: `unheard` tells for whom the
    coordinator, newly started, still waits before it trusts the rounds it knows.
    """

    def __init__(self, members: Iterable[NodeId], *, lease_s: float, now: float) -> None:
        self._lease_s = lease_s
        self._seen = now
        self._leases = {node: _Lease(now, heard=False) for node in members}

    def renew(self, node: NodeId, now: float) -> None:
        """The node was heard of: its lease runs from now."""
        self._leases[node] = _Lease(now, heard=True)

    def grant(self, node: NodeId, now: float) -> None:
        """A fresh lease without a word about rounds: the node has joined, or come back."""
        lease = self._leases.get(node)
        self._leases[node] = _Lease(now, heard=lease is None or lease.heard)

    def forget(self, node: NodeId) -> None:
        """The node is no member any more."""
        self._leases.pop(node, None)

    def pass_time(self, now: float, *, expected_s: float) -> bool:
        """To be told regularly; gives everybody a fresh lease after a gap.

        Args:
            now: The monotonic clock.
            expected_s: How long it usually is between two of these calls.

        Returns:
            True where the gap was more than half a lease beyond the expected
            time, so that leases may be over only because nobody was listening.
        """
        gap = now - self._seen
        self._seen = now
        if gap <= expected_s + self._lease_s / 2:
            return False
        self._leases = {node: _Lease(now, heard=False) for node in self._leases}
        return True

    def is_valid(self, node: NodeId, now: float) -> bool:
        """The node has a lease, and it is not over."""
        lease = self._leases.get(node)
        return lease is not None and now - lease.granted <= self._lease_s

    def silent_s(self, node: NodeId, now: float) -> float:
        """Seconds since the node was heard of, or since its lease was given."""
        lease = self._leases.get(node)
        return 0.0 if lease is None else max(0.0, now - lease.granted)

    def expired(self, now: float) -> tuple[NodeId, ...]:
        """All whose leases are over, sorted."""
        return tuple(sorted(node for node in self._leases if not self.is_valid(node, now)))

    def unheard(self, now: float) -> tuple[NodeId, ...]:
        """All with a lease that have not been heard of since it was given, sorted."""
        return tuple(
            sorted(
                node
                for node, lease in self._leases.items()
                if not lease.heard and self.is_valid(node, now)
            )
        )


class Waits:
    """Since when each phase of a global merge has been waiting for its set."""

    def __init__(self) -> None:
        self._since: dict[Phase, float] = {}

    def watch(self, open_phases: Iterable[Phase], now: float) -> None:
        """Start the clock of phases newly open, forget those that are not."""
        self._since = {phase: self._since.get(phase, now) for phase in open_phases}

    def overdue(self, deadline_s: float, now: float) -> tuple[Phase, ...]:
        """The phases that have been open for at least `deadline_s`."""
        return tuple(phase for phase, since in self._since.items() if now - since >= deadline_s)
