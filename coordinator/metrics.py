"""What a coordinator shows to Prometheus; all names begin with `weft_coordinator_`.

Figures of runs and members are taken when they are asked for; only what happens
in between is counted. Labels hold names and states, never digests or addresses.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from weft.coordinator.statuses import MemberStatus, RunStatus
from weft.protocol.run import RunState

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class CoordinatorMetrics:
    """A coordinator's figures, in a registry of their own.

    Args:
        statuses: all runs as they are now; called from the thread that is asked.
    """

    def __init__(self, statuses: Callable[[], Sequence[RunStatus]]) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._bytes = Counter(
            "weft_coordinator_bytes",
            "Bytes moved with a caller",
            ["caller", "direction"],
            registry=self.registry,
        )
        self._changes = Histogram(
            "weft_coordinator_change_seconds",
            "Time to make a change of a run durable",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._expiry = Gauge(
            "weft_coordinator_certificate_expiry_timestamp_seconds",
            "When the coordinator's certificate stops to hold",
            registry=self.registry,
        )
        self._free = Gauge(
            "weft_coordinator_free_bytes", "Left on the disk of the data", registry=self.registry
        )
        self.registry.register(_Runs(statuses))

    def moved(self, caller: str, direction: str, count: int) -> None:
        """So many bytes went to a caller ("sent"), or came from it ("received")."""
        self._bytes.labels(caller, direction).inc(count)

    def changed(self, seconds: float) -> None:
        """A change took so long to be durable."""
        self._changes.observe(seconds)

    def expires(self, at: float) -> None:
        """The certificate holds until then, in seconds since 1970."""
        self._expiry.set(at)

    def free(self, count: int) -> None:
        """So many bytes are left for us."""
        self._free.set(count)


Standing = Literal["present", "away", "left", "dropped"]


def standing_of(member: MemberStatus) -> Standing:
    """One word for how a member stands with its run."""
    if member.left:
        return "left"
    if member.dropped:
        return "dropped"
    return "away" if member.is_away else "present"


class _Runs(Collector):
    """Gauges of all runs, taken at the moment of the question."""

    def __init__(self, statuses: Callable[[], Sequence[RunStatus]]) -> None:
        self._statuses = statuses

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known once there are runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All gauges of all runs."""
        statuses = self._statuses()
        yield self._states(statuses)
        for name, text, value in (
            ("round", "The highest round that a member reported", lambda run: run.round),
            ("rounds", "Rounds of the run", lambda run: run.spec.rounds),
            ("plan_version", "Version of the plan", lambda run: run.version),
            ("halted", "1: the database is older than the run", lambda run: int(run.halted)),
        ):
            gauge = _gauge(f"run_{name}", text, "run")
            for run in statuses:
                gauge.add_metric([run.name], value(run))
            yield gauge
        yield self._members(statuses)
        yield self._silence(statuses)

    def _states(self, statuses: Sequence[RunStatus]) -> Metric:
        gauge = _gauge("run_state", "1 for the state that the run is in", "run", "state")
        for run in statuses:
            for state in RunState:
                gauge.add_metric([run.name, state.value], float(run.state is state))
        return gauge

    def _members(self, statuses: Sequence[RunStatus]) -> Metric:
        gauge = _gauge("run_members", "Members by how they stand", "run", "standing")
        for run in statuses:
            found = [standing_of(member) for member in run.members]
            for standing in ("present", "away", "left", "dropped"):
                gauge.add_metric([run.name, standing], found.count(standing))
        return gauge

    def _silence(self, statuses: Sequence[RunStatus]) -> Metric:
        gauge = _gauge("member_silent_seconds", "Since a member was heard of", "run", "node")
        for run in statuses:
            for member in run.members:
                if not member.left:
                    gauge.add_metric([run.name, member.node], member.silent_s)
        return gauge


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"weft_coordinator_{name}", text, labels=labels)
