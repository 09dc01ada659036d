"""What a node shows to Prometheus: one object with one registry, and its server.

All names begin with `weft_node_`. Labels hold node names, phases and reasons,
never digests, paths or addresses. Build it in the composition root and pass it
on: nothing here is global.
"""

import threading
import time
from collections.abc import Callable, Sequence
from socketserver import BaseServer
from types import TracebackType
from typing import Literal, Protocol, Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    start_http_server,
)

from weft.node.errors import BadMetricsAddress

LOOPBACK = "127.0.0.1"

_SECONDS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)


class NodeMetrics:
    """A node's figures.

    Args:
        states: every name that `enter` will be called with.
        clock: seconds, for the time since the last contact.
    """

    def __init__(
        self, *, states: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._clock = clock
        self._contacts: dict[str, float] = {}
        self._lock = threading.Lock()
        self._rounds = self._counter("rounds", "Rounds completed")
        self._training_starts = self._counter("training_starts", "Trainings begun")
        self._adopted = self._counter("merges_adopted", "Merged models adopted")
        self._rejected = self._counter(
            "merges_rejected", "Contributions judged and refused", "reason"
        )
        self._missed = self._counter("missed_edges", "Edges that were not used", "reason")
        self._bytes = self._counter("bytes", "Bytes moved with a peer", "peer", "direction")
        self._phases = Histogram(
            "weft_node_phase_seconds",
            "Time spent in a phase of a round",
            ["phase"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._contact = self._gauge("last_contact_seconds", "Since a peer was heard", "peer")
        self._distance = self._gauge("consensus_distance", "Over the last contributions")
        self._moved = self._gauge("moved_units", "Share of a peer's units put elsewhere", "peer")
        self._journal = self._gauge("journal_entries", "Entries in the journal")
        self._expiry = self._gauge("certificate_expiry_seconds", "Left to this node's certificate")
        self._free = self._gauge("free_bytes", "Left on the disk of the data folder")
        self._round = self._gauge("round", "The round this node is in")
        self._state = Enum(
            "weft_node_state", "What the node is doing", states=states, registry=self.registry
        )

    def enter(self, state: str, round: int) -> None:
        """The node is in this state of this round now."""
        self._state.state(state)
        self._round.set(round)

    def round_done(self) -> None:
        """A round is over."""
        self._rounds.inc()

    def training_started(self) -> None:
        """A training begins, for the first time or again."""
        self._training_starts.inc()

    def phase_took(self, phase: str, seconds: float) -> None:
        """A phase of a round is over."""
        self._phases.labels(phase).observe(seconds)

    def moved(self, peer: str, direction: Literal["sent", "received"], count: int) -> None:
        """So many more bytes went to a peer, or came from it."""
        self._bytes.labels(peer, direction).inc(count)

    def heard(self, peer: str) -> None:
        """A peer answered or asked just now."""
        with self._lock:
            self._contacts[peer] = self._clock()
        self._contact.labels(peer).set_function(lambda: self._since(peer))

    def forget(self, peer: str) -> None:
        """A peer is no longer a member: its age of contact is shown no more."""
        with self._lock:
            if self._contacts.pop(peer, None) is not None:
                self._contact.remove(peer)

    def measured_distance(self, distance: float) -> None:
        """The consensus distance over the contributions of the last merge."""
        self._distance.set(distance)

    def units_moved(self, peer: str, share: float) -> None:
        """Which part of a peer's units changed places in the last alignment."""
        self._moved.labels(peer).set(share)

    def merge_adopted(self) -> None:
        """A merged model was taken over."""
        self._adopted.inc()

    def merge_rejected(self, reason: str) -> None:
        """A contribution, or a whole merge, was judged and refused."""
        self._rejected.labels(_label(reason)).inc()

    def edge_missed(self, reason: str) -> None:
        """An edge of the mixing matrix was not used; its weight went to self.

        What follows a colon in a reason ("declined: norm") is not shown.
        """
        self._missed.labels(_label(reason)).inc()

    def journal_holds(self, entries: int) -> None:
        """So many entries are in the journal."""
        self._journal.set(entries)

    def certificate_ends(self, at_unix_s: float, wall_clock: Callable[[], float]) -> None:
        """This node's certificate is good until then; shown as time left."""
        self._expiry.set_function(lambda: at_unix_s - wall_clock())

    def room(self, free_bytes: Callable[[], float]) -> None:
        """Asked at each scrape: what is left on the disk of the data folder."""
        self._free.set_function(free_bytes)

    def _since(self, peer: str) -> float:
        with self._lock:
            return self._clock() - self._contacts.get(peer, self._clock())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"weft_node_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"weft_node_{name}", text, labels, registry=self.registry)


class Figures(Protocol):
    """Whatever has figures to show."""

    registry: CollectorRegistry


class MetricsServer:
    """Serves figures over HTTP until `close`; on loopback unless told.

        with MetricsServer(metrics, "127.0.0.1:9401") as server:
            ...  # http://127.0.0.1:{server.port}/metrics

    Args:
        metrics: what to show.
        address: `host:port`; `:port` or a bare port means loopback, port 0 any.

    Raises:
        BadMetricsAddress: not such an address, or it cannot be listened on.
    """

    def __init__(self, metrics: Figures, address: str = f"{LOOPBACK}:0") -> None:
        host, port = _host_and_port(address)
        try:
            server, self._thread = start_http_server(port, host, registry=metrics.registry)
        except OSError as error:
            raise BadMetricsAddress(
                f"metrics cannot be served on {address!r}: {error.strerror or error}; "
                'set "metrics" to a free host:port, or to "" for none'
            ) from error
        self._server: BaseServer = server
        self.port = int(server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port; blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(metrics: Figures, address: str = f"{LOOPBACK}:0") -> MetricsServer:
    """Start serving; see `MetricsServer`."""
    return MetricsServer(metrics, address)


def _label(reason: str) -> str:
    return reason.partition(":")[0]


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadMetricsAddress(
            f"metrics address {address!r} is not host:port; write for example 127.0.0.1:9401"
        )
    return host.strip("[]") or LOOPBACK, int(port)
