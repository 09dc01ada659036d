"""`weft status`: the document mirrors the wire, the table is for people."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.operating import Desk
from tests.coordinator.processes import CoordinatorProcess
from weft.cli.status import document_of
from weft.protocol.channel import ChannelPool, call, coordinator_stub
from weft.protocol.convert import plan_message, report_message
from weft.protocol.run import (
    Digest,
    GlobalSet,
    Member,
    NodeId,
    Phase,
    Plan,
    Report,
    RunName,
    RunSpec,
    RunState,
)
from weft.protocol.v1 import coordinator_pb2 as wire


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    made = CoordinatorProcess(tmp_path_factory.mktemp("federation"))
    made.start()
    yield made
    made.close()


@pytest.fixture
def desk(
    process: CoordinatorProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    return Desk(process, tmp_path, capsys, monkeypatch)


async def joins_and_reports(process: CoordinatorProcess, node: str, told: Report) -> None:
    pool = ChannelPool(process.enrol(node))
    stub = coordinator_stub(pool.to(process.address, "coordinator"))
    await call(stub.Join, wire.JoinRequest(run="shown", address=f"{node}:1"), timeout_s=10)
    await call(stub.Report, report_message(RunName("shown"), told), timeout_s=10)
    await pool.close()


def test_status_from_the_first_run_to_members_that_report(desk: Desk) -> None:
    assert desk.reads("status") == {"runs": []}
    assert "weft run create FILE" in desk.types("status")[1]
    assert desk.types("run", "create", desk.run_file("shown"))[0] == 0
    waiting = desk.reads("status", "shown")
    assert waiting["notes"] == ["waits for 2 more node(s) to join"]
    told = Report(
        state="training",
        round=0,
        plan_version=1,
        metrics={"loss": 0.25},
        bytes_sent=2048,
        merges_adopted=3,
        message="waits for [b]",
    )
    asyncio.run(joins_and_reports(desk.process, "a", told))
    found = desk.reads("status", "shown")
    assert found["notes"] == ["waits for 1 more node(s) to join"]
    (member,) = found["members"]
    assert member["report"]["metrics"] == {"loss": 0.25}
    assert (member["node"], member["lease_valid"], member["left"]) == ("a", True, False)
    assert found["plan"]["members"][0]["address"] == "a:1"
    code, out, _ = desk.types("status", "shown")
    assert code == 0
    for text in ("shown: waiting", "training", "loss 0.25", "2.0 KiB out", "waits for [b]"):
        assert text in out
    assert "a " in desk.types("status")[1], "the only run is shown with its members"
    assert [run["run"] for run in desk.reads("status")["runs"]] == ["shown"]
    assert "did you mean 'shown'" in desk.mistakes("status", "show")


def status_of(plan: Plan, **reports: Report) -> dict[str, Any]:
    spec = RunSpec(name="quilt", nodes=2, rounds=4, base="ba" * 32)
    members = [
        wire.MemberStatus(
            node=name,
            address=f"{name}:1",
            report=report_message(RunName("quilt"), report),
            silent_s=1.26,
            lease_valid=name != "b",
        )
        for name, report in reports.items()
    ]
    return document_of(
        wire.RunStatus(spec=spec.to_bytes(), plan=plan_message(plan), members=members)
    )


PAIRS = ((NodeId("a"), Digest("a1" * 32)), (NodeId("b"), Digest("b1" * 32)))
PLAN = Plan(
    run=RunName("quilt"),
    version=5,
    state=RunState.RUNNING,
    members=tuple(Member(node=NodeId(n), address=f"{n}:1") for n in "ab"),
    proposed=(GlobalSet(phase=Phase.PARAMETERS, contributors=PAIRS),),
)


def report(**fields: Any) -> Report:
    return Report(**{"state": "done", "round": 4, "plan_version": 5, **fields})


def test_what_is_odd_is_said_in_words() -> None:
    found = status_of(PLAN, a=report(result=Digest("ee" * 32)), b=report(result=Digest("ff" * 32)))
    assert found["notes"] == [
        "the results of the global merge differ, they should be one digest",
        "the global merge of parameters waits for promises of a, b",
    ]
    assert found["plan"]["proposed"][0]["digest"] == PLAN.proposed[0].digest
    assert found["members"][0]["silent_s"] == 1.3


def test_a_halted_run_is_told_from_what_its_nodes_hold() -> None:
    (note, *_) = status_of(PLAN, a=report(plan_version=9), b=report())["notes"]
    assert note.startswith("halted: a hold(s) a newer plan than the coordinator's 5")


def test_numbers_that_are_not_finite_are_null() -> None:
    found = status_of(PLAN, a=report(metrics={"loss": float("nan")}))
    assert found["members"][0]["report"]["metrics"] == {"loss": None}
