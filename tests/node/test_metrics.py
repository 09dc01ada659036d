"""What a node shows to Prometheus, read back as Prometheus would."""

import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from weft.node.errors import BadMetricsAddress
from weft.node.metrics import MetricsServer, NodeMetrics, serve


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> NodeMetrics:
    return NodeMetrics(states=("joining", "training", "done"), clock=clock)


@pytest.fixture
def server(metrics: NodeMetrics) -> Iterator[MetricsServer]:
    with serve(metrics) as opened:
        yield opened


def scraped(server: MetricsServer) -> dict[str, float]:
    """Every sample as `name{value,value}`, in the order of the labels' names."""
    url = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return {
        _name_of(sample): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _name_of(sample: Sample) -> str:
    values = ",".join(sample.labels[name] for name in sorted(sample.labels))
    return f"{sample.name}{{{values}}}" if values else sample.name


def test_everything_that_was_counted_is_shown(
    metrics: NodeMetrics, clock: Clock, server: MetricsServer
) -> None:
    metrics.enter("training", 4)
    metrics.training_started()
    metrics.phase_took("training", 1.5)
    metrics.moved("node-2", "sent", 100)
    metrics.moved("node-2", "sent", 20)
    metrics.moved("node-2", "received", 7)
    metrics.heard("node-2")
    metrics.measured_distance(0.25)
    metrics.merge_adopted()
    metrics.merge_rejected("norm")
    metrics.edge_missed("late")
    metrics.edge_missed("declined: cosine")
    metrics.journal_holds(17)
    metrics.certificate_ends(1000.0, lambda: 400.0)
    metrics.round_done()
    clock.now += 12.5
    shown = scraped(server)
    expected = {
        "weft_node_rounds_total": 1,
        "weft_node_round": 4,
        "weft_node_state{joining}": 0,
        "weft_node_state{training}": 1,
        "weft_node_state{done}": 0,
        "weft_node_phase_seconds_sum{training}": 1.5,
        "weft_node_phase_seconds_bucket{1.0,training}": 0,
        "weft_node_phase_seconds_bucket{2.0,training}": 1,
        "weft_node_bytes_total{sent,node-2}": 120,
        "weft_node_bytes_total{received,node-2}": 7,
        "weft_node_last_contact_seconds{node-2}": 12.5,
        "weft_node_consensus_distance": 0.25,
        "weft_node_merges_adopted_total": 1,
        "weft_node_merges_rejected_total{norm}": 1,
        "weft_node_missed_edges_total{late}": 1,
        "weft_node_missed_edges_total{declined}": 1,
        "weft_node_training_starts_total": 1,
        "weft_node_journal_entries": 17,
        "weft_node_certificate_expiry_seconds": 600,
    }
    assert {name: shown.get(name) for name in expected} == expected


def test_contact_starts_anew_and_ends_with_membership(
    metrics: NodeMetrics, clock: Clock, server: MetricsServer
) -> None:
    metrics.heard("node-2")
    clock.now += 5
    metrics.heard("node-2")
    clock.now += 1
    assert scraped(server)["weft_node_last_contact_seconds{node-2}"] == 1
    metrics.forget("node-2")
    metrics.forget("node-2")
    assert not any("last_contact" in name and "node-2" in name for name in scraped(server))


def test_two_nodes_in_one_process_share_nothing(metrics: NodeMetrics) -> None:
    metrics.round_done()
    with serve(NodeMetrics(states=("done",))) as other:
        assert scraped(other)["weft_node_rounds_total"] == 0


@pytest.mark.parametrize("address", ["127.0.0.1:0", ":0", "0"])
def test_without_a_host_it_is_loopback(address: str, metrics: NodeMetrics) -> None:
    with serve(metrics, address) as server:
        assert scraped(server)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_closing_frees_the_port(metrics: NodeMetrics) -> None:
    server = serve(metrics)
    server.close()
    serve(metrics, f"127.0.0.1:{server.port}").close()


@pytest.mark.parametrize("address", ["", "here", "127.0.0.1:", "127.0.0.1:http", "host:70000"])
def test_what_is_no_address_is_refused(address: str, metrics: NodeMetrics) -> None:
    with pytest.raises(BadMetricsAddress, match="is not host:port; write for example"):
        serve(metrics, address)


def test_a_taken_port_is_named_with_its_key(metrics: NodeMetrics, server: MetricsServer) -> None:
    address = f"127.0.0.1:{server.port}"
    with pytest.raises(BadMetricsAddress, match=f"on '{address}': .*set \"metrics\" to a free"):
        serve(metrics, address)
