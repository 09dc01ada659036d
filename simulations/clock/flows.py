"""Transfers as a fluid: rates by max-min fairness, until one of them ends.

>>> network = Network(up=np.array([10.0, 10.0, 10.0]), down=np.full(3, np.inf))
>>> for receiver in (1, 2):
...     _ = network.start(0, receiver, limit=np.inf, size=100.0, then=lambda: None)
>>> network.settle(0.0)
>>> network.next_end
20.0
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weft.topology.edges import Float64, Int32

Apart = Callable[[Int32, Int32, float], NDArray[np.bool_]]
"""Which pairs of senders and receivers do not reach each other at a moment."""

_INSTANT = 1e-9
"""Seconds; with a share of 10^-12 of the moment itself, what counts as the same moment."""


def fair_rates(
    senders: Int32, receivers: Int32, limits: Float64, up: Float64, down: Float64
) -> Float64:
    """The max-min fair rates of transfers: (transfers,) float64.

    Args:
        senders: (transfers,) nodes.
        receivers: likewise.
        limits: (transfers,) what each may have at most; 0: it stands still.
        up: (nodes,) what each node can send in all; may be infinite.
        down: (nodes,) what each can take.

    In each pass every transfer is settled that is at its limit, or whose node's share is
    the least that any transfer of that node could have; shares only grow from then on.

    Source: Bertsekas and Gallager 1992, "Data Networks", 6.5.2, progressive filling.
    """
    rates = np.zeros(len(limits))
    free_up, free_down = up.copy(), down.copy()
    left = np.flatnonzero(limits > 0)
    while len(left):
        out, into, most = senders[left], receivers[left], limits[left]
        share_up, share_down = _shares(free_up, out), _shares(free_down, into)
        least = np.minimum(most, np.minimum(share_up[out], share_down[into]))
        settled = (
            (most <= least) | _is_bottleneck(share_up, out, least)
            | _is_bottleneck(share_down, into, least)
        )  # fmt: skip
        rates[left[settled]] = least[settled]
        _take(free_up, out[settled], least[settled])
        _take(free_down, into[settled], least[settled])
        left = left[~settled]
    return rates


def _shares(free: Float64, ends: Int32) -> Float64:
    users = np.bincount(ends, minlength=len(free))
    shares = np.full(len(free), np.inf)
    np.divide(free, users, out=shares, where=users > 0)
    return shares


def _is_bottleneck(shares: Float64, ends: Int32, least: Float64) -> NDArray[np.bool_]:
    """Whether a transfer's node gives it and all its other transfers no more than its share."""
    lowest = np.full(len(shares), np.inf)
    np.minimum.at(lowest, ends, least)
    return np.asarray(lowest[ends] >= shares[ends])


def _take(free: Float64, ends: Int32, rates: Float64) -> None:
    finite = np.isfinite(rates)  # an infinite rate takes nothing from what is infinite
    used = np.bincount(ends[finite], rates[finite], minlength=len(free))
    np.maximum(free - used, 0.0, out=free)


class Network:
    """The transfers that are under way.

    Args:
        up, down: bytes a second of each node, (nodes,) float64; may be infinite.
        apart: who does not reach whom; such transfers stand still.
    """

    def __init__(self, up: Float64, down: Float64, apart: Apart | None = None) -> None:
        self._up, self._down, self._apart = up, down, apart
        self._shared = bool(np.isfinite(up).any() or np.isfinite(down).any())
        self._names = np.empty(0, dtype=np.int64)
        self._ends = np.empty((2, 0), dtype=np.int32)
        self._amounts = np.empty((4, 0))  # limit, size, left, rate
        self._new: dict[int, tuple[int, int, float, float]] = {}
        self._then: dict[int, Callable[[], None]] = {}
        self._count, self._since, self._changed = 0, 0.0, False
        self.next_end = math.inf

    def start(
        self, sender: int, receiver: int, *, limit: float, size: float, then: Callable[[], None]
    ) -> int:
        """Begin a transfer now; it moves once `settle` is called.

        Args:
            sender: a node.
            receiver: another.
            limit: bytes a second that it may have at most.
            size: bytes.
            then: called when its last byte has been sent.

        Returns:
            Its name, for `cancel`.
        """
        name, self._count = self._count, self._count + 1
        self._new[name] = (sender, receiver, limit, size)
        self._then[name] = then
        self._changed = True
        return name

    def cancel(self, name: int, now: float) -> float:
        """End a transfer that is not done; the bytes that it has moved."""
        del self._then[name]
        if self._new.pop(name, None) is not None:
            return 0.0
        self._advance(now)
        place = int(np.searchsorted(self._names, name))
        moved = float(self._amounts[1, place] - self._amounts[2, place])
        self._keep(self._names != name)
        return moved

    def change(self) -> None:
        """Who reaches whom is not what it was."""
        self._changed = True

    def settle(self, now: float) -> None:
        """Work out the rates that hold from now on, and `next_end`."""
        if not self._changed:
            return
        self._advance(now)
        self._take_in()
        self._changed = False
        (senders, receivers), (limits, _, left, rate) = self._ends, self._amounts
        if self._apart is not None:
            limits = np.where(self._apart(senders, receivers, now), 0.0, limits)
        if self._shared:
            rate[:] = fair_rates(senders, receivers, limits, self._up, self._down)
        else:
            rate[:] = limits
        left[np.isinf(rate)] = 0.0
        times = np.divide(left, rate, out=np.full(len(left), np.inf), where=rate > 0)
        self.next_end = now + float(times.min(initial=math.inf))

    def ended(self, now: float) -> list[Callable[[], None]]:
        """What is to be called for the transfers that are done by now, first begun first."""
        if now < self.next_end:
            return []
        self._advance(now)
        _, _, left, rate = self._amounts
        moving = rate > 0
        done = moving & (left <= np.where(np.isinf(rate), 0.0, rate) * (_INSTANT + 1e-12 * now))
        found = [self._then.pop(int(name)) for name in self._names[done]]
        self._keep(~done)
        return found

    def _advance(self, now: float) -> None:
        if now > self._since:
            _, _, left, rate = self._amounts
            finite = np.isfinite(rate)
            left[finite] = np.maximum(left[finite] - rate[finite] * (now - self._since), 0.0)
        self._since = now

    def _take_in(self) -> None:
        if not self._new:
            return
        rows = np.array(list(self._new.values()))
        ends = rows[:, :2].T.astype(np.int32)
        amounts = np.stack([rows[:, 2], rows[:, 3], rows[:, 3], np.zeros(len(rows))])
        names = np.array(list(self._new), dtype=np.int64)
        self._names = np.concatenate([self._names, names])
        self._ends = np.concatenate([self._ends, ends], axis=1)
        self._amounts = np.concatenate([self._amounts, amounts], axis=1)
        self._new.clear()

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._names, self._changed = self._names[kept], True
        self._ends, self._amounts = self._ends[:, kept], self._amounts[:, kept]
