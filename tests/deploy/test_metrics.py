"""Every panel and every alert asks for metrics and labels that the daemons show."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Histogram, generate_latest

from tests.deploy.files import Asked, asked
from tests.deploy.metrics import declared, families, missing
from weft.coordinator.metrics import CoordinatorMetrics
from weft.node.metrics import NodeMetrics

DAEMONS = {
    "coordinator": CoordinatorMetrics(lambda: []).registry,
    "node": NodeMetrics(states=["training", "done"]).registry,
}


def test_every_query_names_what_the_daemons_show() -> None:
    queries = asked()
    known = {
        name: labels
        for registry in DAEMONS.values()
        for series in families(registry).values()
        for name, labels in series.items()
    }
    assert len(queries) > 20
    assert missing(queries, known) == []


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_figure_is_on_the_dashboard_or_in_an_alert(daemon: str) -> None:
    texts = " ".join(query.expression for query in asked())
    assert [family for family in families(DAEMONS[daemon]) if family not in texts] == []


def test_a_page_declares_all_that_its_registry_has() -> None:
    for registry in DAEMONS.values():
        told = {name for series in families(registry).values() for name in series}
        page = declared(generate_latest(registry).decode())
        assert {name for name in page if not name.endswith("_created")} == told


def test_series_are_told_before_they_have_a_value() -> None:
    registry = CollectorRegistry()
    Counter("a_bytes", "-", ["peer"], registry=registry)
    Histogram("a_seconds", "-", ["phase"], buckets=(1,), registry=registry)
    Enum("a_state", "-", states=["on", "off"], registry=registry)
    told = {
        name: labels for series in families(registry).values() for name, labels in series.items()
    }
    assert told == {
        "a_bytes_total": {"peer"},
        "a_seconds_bucket": {"phase", "le"},
        "a_seconds_sum": {"phase"},
        "a_seconds_count": {"phase"},
        "a_state": {"a_state"},
    }
    assert declared(generate_latest(registry).decode()) == set(told)


def test_a_planted_query_is_found() -> None:
    known = {"a_bytes_total": {"peer", "direction"}, "a_round": set[str]()}
    good = Asked("good", "sum by (node, peer) (rate(a_bytes_total[5m]))", {"peer"})
    plain = Asked("plain", 'a_round{node="n"} and up', {"node", "instance"})
    assert missing([good, plain], known) == []
    bad = [
        Asked("metric", "a_rounds", set()),
        Asked("label", 'a_round{peer="x"}', set()),
        Asked("group", "sum by (reason) (a_bytes_total)", set()),
        Asked("legend", "a_round", {"peer"}),
        Asked("lost", "sum by (node) (a_bytes_total)", {"peer"}),
    ]
    assert [complaint.split(":")[0] for complaint in missing(bad, known)] == [
        query.where for query in bad
    ]
