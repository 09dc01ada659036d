"""What people and Prometheus are shown: complete, escaped, and never a secret."""

import json
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.coordinator.stories import NODES, ROUNDS, spec
from weft.coordinator.leases import Leases
from weft.coordinator.membership import advance, create
from weft.coordinator.metrics import CoordinatorMetrics, standing_of
from weft.coordinator.records import Event, Joined, LeasesExpired, Left, Reported
from weft.coordinator.runs import LiveRun
from weft.coordinator.status_page import StatusServer, application, page
from weft.coordinator.statuses import RunStatus, document, status_of
from weft.errors import InvalidInput, Unavailable
from weft.protocol.run import Digest, Report

A, B, C, D = NODES


def live() -> LiveRun:
    """a talks, b is silent, c was dropped, d has left."""
    record = create(spec(nodes=4), at=86_400.0)
    events: list[Event] = [Joined(node=node, address=f"{node}:1") for node in NODES]
    events += [
        LeasesExpired(nodes=(C,)),
        Left(node=D),
        Reported(node=B, round=2, plan_version=5, state="done", result=Digest("ee" * 32)),
    ]
    for event in events:
        record = advance(record, event)
    leases = Leases(NODES, lease_s=30, now=0.0)
    leases.renew(A, 90.0)
    made = LiveRun(record=record, leases=leases)
    made.reports[A] = Report(
        state="training",
        round=3,
        plan_version=6,
        metrics={"loss": float("nan"), "accuracy": 0.5},
        message="<script>alert(1)</script>",
    )
    return made


@pytest.fixture
def status() -> RunStatus:
    return status_of(live(), now=100.0)


def test_how_members_stand(status: RunStatus) -> None:
    standings = {member.node: standing_of(member) for member in status.members}
    assert standings == {A: "present", B: "away", C: "dropped", D: "left"}
    silent = {member.node: member.silent_s for member in status.members}
    assert (silent[A], silent[B]) == (10.0, 100.0)


def test_what_is_kept_stands_in_for_a_report(status: RunStatus) -> None:
    b = status.members[1]
    assert (b.report.state, b.report.round, b.report.result) == ("done", 2, "ee" * 32)


def test_the_document_is_json_with_all_that_is_known(status: RunStatus) -> None:
    found: dict[str, Any] = json.loads(json.dumps(document(status), allow_nan=False))
    assert found["run"] == "quilt"
    assert (found["round"], found["rounds"], found["nodes"]) == (2, ROUNDS, 4)
    assert found["created_at"] == "1970-01-02T00:00:00+00:00"
    assert found["members"][0]["metrics"] == {"accuracy": 0.5, "loss": None}
    assert [member["left"] for member in found["members"]] == [False, False, False, True]


def test_what_nodes_wrote_is_escaped(status: RunStatus) -> None:
    html = page([status])
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert '<tr class="dropped"><td>c</td>' in html
    assert "loss nan" in html


def test_no_runs_yet_says_how_to_make_one() -> None:
    assert "weft run create FILE" in page([])


def test_metrics_of_runs_and_members(status: RunStatus) -> None:
    metrics = CoordinatorMetrics(lambda: [status])
    metrics.moved("a", "sent", 10)
    metrics.changed(0.004)
    metrics.expires(1e9)
    metrics.free(123)
    text = generate_latest(metrics.registry).decode()
    for line in (
        'weft_coordinator_run_round{run="quilt"} 2.0',
        'weft_coordinator_run_rounds{run="quilt"} 6.0',
        'weft_coordinator_run_halted{run="quilt"} 0.0',
        'weft_coordinator_run_state{run="quilt",state="running"} 1.0',
        'weft_coordinator_run_state{run="quilt",state="paused"} 0.0',
        'weft_coordinator_run_members{run="quilt",standing="dropped"} 1.0',
        'weft_coordinator_member_silent_seconds{node="b",run="quilt"} 100.0',
        'weft_coordinator_bytes_total{caller="a",direction="sent"} 10.0',
        'weft_coordinator_change_seconds_bucket{le="0.005"} 1.0',
        "weft_coordinator_certificate_expiry_timestamp_seconds 1e+09",
        "weft_coordinator_free_bytes 123.0",
    ):
        assert line in text
    assert 'node="d"' not in text, "who left is silent for ever, and no alarm"


def asked(path: str, statuses: Callable[[], list[RunStatus]], method: str = "GET") -> Any:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": path, "REQUEST_METHOD": method}
    heads: list[tuple[str, dict[str, str]]] = []
    app = application(statuses, CollectorRegistry())
    body = b"".join(app(environ, lambda code, headers, *_: heads.append((code, dict(headers)))))
    return heads[0][0], heads[0][1], body.decode()


def test_pages_and_their_kinds(status: RunStatus) -> None:
    code, headers, body = asked("/status.json", lambda: [status])
    assert (code, headers["Content-Type"]) == ("200 OK", "application/json")
    assert json.loads(body)["runs"][0]["run"] == "quilt"
    code, headers, body = asked("/", lambda: [status])
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert asked("/metrics", lambda: [status])[0] == "200 OK"
    assert asked("/secret", lambda: [status])[0] == "404 Not Found"
    assert asked("/", lambda: [status], "POST")[0] == "405 Method Not Allowed"


def test_a_coordinator_that_does_not_answer_is_no_stack_trace() -> None:
    def nothing() -> list[RunStatus]:
        raise Unavailable("the coordinator does not answer")

    code, _, body = asked("/", nothing)
    assert (code, body) == ("503 Service Unavailable", "the coordinator does not answer\n")


def test_an_address_that_is_taken_names_the_key(status: RunStatus) -> None:
    first = StatusServer("127.0.0.1:0", lambda: [status], CollectorRegistry())
    try:
        with pytest.raises(InvalidInput, match=r"metrics = .*cannot be listened on"):
            StatusServer(first.address, lambda: [status], CollectorRegistry())
        with pytest.raises(InvalidInput, match=r"metrics = .*cannot be listened on"):
            StatusServer("127.0.0.1:70000", lambda: [status], CollectorRegistry())
    finally:
        first.close()
