"""What a stream that is served shows to Prometheus; all names begin with `weft_stream_`.

Labels hold statuses and peers' names, never digests or paths.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from weft.node.continual.keeper import View
from weft.node.continual.records import Status

_SECONDS: Final = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)


class StreamMetrics:
    """A stream's figures, in a registry of their own.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._clock = clock
        self._contributions = self._gauge("contributions", "Contributions by status", "status")
        self._waiting = self._gauge("waiting", "Contributions acknowledged and not yet absorbed")
        self._generation = self._gauge("generation", "Number of the newest generation")
        self._state = self._gauge("state_bytes", "Bytes of the newest state")
        self._last = self._gauge("last_absorb_timestamp_seconds", "When a generation was last made")
        self._free = self._gauge("free_bytes", "Left on the disk of the stream")
        self._expiry = self._gauge("certificate_expiry_seconds", "Left to this certificate")
        self._trouble = self._gauge("trouble", "1: something keeps the stream from going on")
        self._bytes = Counter(
            "weft_stream_bytes",
            "Bytes moved with a caller",
            ["caller", "direction"],
            registry=self.registry,
        )
        self._absorb = Histogram(
            "weft_stream_absorb_seconds",
            "Time to make a generation",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def saw(self, view: View) -> None:
        """The stream has changed, or may have."""
        found = Tally(each.status for each in view.contributions)
        for status in Status:
            self._contributions.labels(status.value).set(found[status])
        self._waiting.set(found[Status.WAITING])
        self._generation.set(view.newest.number)
        self._state.set(view.state_bytes)

    def absorbed(self, seconds: float) -> None:
        """A generation was made, and took so long."""
        self._absorb.observe(seconds)
        self._last.set(self._clock())

    def moved(self, caller: str, direction: str, count: int) -> None:
        """So many bytes went to a caller ("sent"), or came from it ("received")."""
        self._bytes.labels(caller, direction).inc(count)

    def room(self, free_bytes: Callable[[], float]) -> None:
        """Asked at each scrape: what is left on the disk of the stream."""
        self._free.set_function(free_bytes)

    def in_trouble(self, asked: Callable[[], bool]) -> None:
        """Asked at each scrape: whether something keeps the stream from going on."""
        self._trouble.set_function(lambda: float(asked()))

    def certificate_ends(self, at_unix_s: float) -> None:
        """The certificate is good until then; shown as time left."""
        self._expiry.set_function(lambda: at_unix_s - self._clock())

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"weft_stream_{name}", text, labels, registry=self.registry)
