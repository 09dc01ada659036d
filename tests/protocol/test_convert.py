"""Messages and values: what is written is read back, what cannot be is refused."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from weft.protocol.convert import (
    address_of,
    contributors_of,
    digest_of,
    digest_or_none,
    epoch_of,
    global_set_message,
    global_set_of,
    member_of,
    node_of,
    phase_of,
    plan_message,
    plan_of,
    report_message,
    report_of,
    round_of,
    run_name_of,
    spec_of,
    state_of,
)
from weft.protocol.errors import BadMessage
from weft.protocol.run import (
    Digest,
    Epoch,
    GlobalSet,
    Member,
    MergeSpec,
    NodeId,
    Phase,
    Plan,
    Report,
    RunName,
    RunSpec,
    RunState,
)
from weft.protocol.v1 import coordinator_pb2, peer_pb2

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).map(NodeId)
digests = st.binary(min_size=32, max_size=32).map(lambda data: Digest(data.hex()))
counts = st.integers(0, 2**31 - 1)
sizes = st.integers(0, 2**63)
addresses = st.sampled_from(["10.0.0.1:7400", "[::1]:1", "node-a.example.org:65535"])
runs = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).map(RunName)
members = st.builds(Member, node=names, address=addresses, data_size=sizes)
lists = st.lists(names, unique=True, max_size=5).map(lambda found: tuple(sorted(found)))
epochs = st.builds(Epoch, number=counts, from_round=counts, members=lists)
sets = st.builds(
    GlobalSet,
    phase=st.sampled_from(Phase),
    contributors=st.dictionaries(names, digests, max_size=4).map(
        lambda found: tuple(sorted(found.items()))
    ),
)
plans = st.builds(
    Plan,
    run=runs,
    version=sizes,
    state=st.sampled_from(RunState),
    members=st.lists(members, max_size=4).map(tuple),
    epochs=st.lists(epochs, max_size=3).map(tuple),
    proposed=st.lists(sets, max_size=2).map(tuple),
    committed=st.lists(sets, max_size=2).map(tuple),
    revoked=st.frozensets(st.from_regex(r"[0-9a-f]{1,40}", fullmatch=True), max_size=3),
)
reports = st.builds(
    Report,
    state=st.text(max_size=20),
    round=counts,
    plan_version=sizes,
    metrics=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3),
    bytes_sent=sizes,
    bytes_received=sizes,
    merges_adopted=sizes,
    merges_rejected=sizes,
    message=st.text(max_size=20),
    announced=st.dictionaries(st.sampled_from(Phase), digests),
    result=st.none() | digests,
    members_digest=st.none() | digests,
)


@given(plans)
def test_plans_survive_the_wire(plan: Plan) -> None:
    wire = plan_message(plan).SerializeToString()
    assert plan_of(coordinator_pb2.Plan.FromString(wire)) == plan


@given(runs, reports)
def test_reports_survive_the_wire(run: RunName, report: Report) -> None:
    wire = report_message(run, report).SerializeToString()
    message = coordinator_pb2.ReportRequest.FromString(wire)
    assert message.run == run
    assert report_of(message) == report


def test_every_field_of_a_report_survives_the_wire() -> None:
    full = Report(
        state="merging",
        round=6,
        plan_version=4,
        metrics={"loss": 0.5},
        bytes_sent=1,
        bytes_received=2,
        merges_adopted=3,
        merges_rejected=4,
        message="words",
        announced={Phase.PARAMETERS: Digest("ab" * 32)},
        result=Digest("cd" * 32),
        members_digest=Digest("ef" * 32),
    )
    blank = Report(state="", round=0, plan_version=0)
    same = [f.name for f in fields(Report) if getattr(full, f.name) == getattr(blank, f.name)]
    assert same == []
    wire = report_message(RunName("r"), full).SerializeToString()
    assert report_of(coordinator_pb2.ReportRequest.FromString(wire)) == full


@given(sets)
def test_sets_survive_the_wire(chosen: GlobalSet) -> None:
    assert global_set_of(global_set_message(chosen)) == chosen


def test_specifications_survive_the_wire() -> None:
    spec = RunSpec(name="r", nodes=2, rounds=3, base="ab" * 32)
    assert spec_of(spec.to_bytes()) == spec


def test_a_run_that_merges_in_rounds_keeps_its_digest() -> None:
    """As it was before there was another mode: seeds follow from it, and old nodes read it."""
    old = RunSpec(name="r", nodes=2, rounds=3, base="ab" * 32)
    assert old.digest == "569fbe3ff9715c80ff8e21e895fc480ee0868289a55c2db291e5a6c7f300ce80"
    assert b"mode" not in old.to_bytes()
    assert spec_of(old.to_bytes()).merge.mode == "rounds"


def test_a_continual_run_is_another_run() -> None:
    old = RunSpec(name="r", nodes=2, rounds=3, base="ab" * 32)
    spec = old.model_copy(update={"merge": MergeSpec(mode="continual")})
    assert spec_of(spec.to_bytes()) == spec
    assert spec.digest != old.digest


@pytest.mark.parametrize("align", ["activations", "weights"])
def test_a_run_that_aligns_is_another_run(align: str) -> None:
    """And one that does not keeps the digest that it had, whether it says so or not."""
    old = RunSpec(name="r", nodes=2, rounds=3, base="ab" * 32)
    spoken = RunSpec(name="r", nodes=2, rounds=3, base="ab" * 32, merge=MergeSpec(align="none"))
    assert spoken.digest == old.digest
    assert b"align" not in old.to_bytes()
    spec = old.model_copy(update={"merge": MergeSpec.model_validate({"align": align})})
    assert spec_of(spec.to_bytes()) == spec
    assert spec.digest != old.digest


def test_a_stream_is_not_aligned() -> None:
    with pytest.raises(ValidationError, match="align = 'weights' goes with mode = 'rounds'"):
        MergeSpec(align="weights", mode="continual")


GOOD, BAD = "ab" * 32, "AB" * 32


@pytest.mark.parametrize(
    ("read", "value", "told"),
    [
        (digest_of, "", "digest ''"),
        (digest_of, BAD, "64 hexadecimal digits"),
        (digest_of, GOOD + "\n", "64 hexadecimal digits"),
        (digest_of, "../" * 21 + "a", "64 hexadecimal digits"),
        (node_of, "", "node ''"),
        (node_of, "Node", "lower-case letters"),
        (node_of, "a/b", "lower-case letters"),
        (node_of, "a" * 64, "lower-case letters"),
        (node_of, "a" * 500, r"\.\.\.'"),
        (run_name_of, "../run", "a name such as"),
        (address_of, "host", "host:port"),
        (address_of, "host:0", "1 to 65535"),
        (address_of, "host:65536", "1 to 65535"),
        (address_of, "ho st:80", "host:port"),
        (address_of, "http://host:80", "host:port"),
        (phase_of, "both", "expected one of parameters, aligned, statistics"),
        (state_of, "asleep", "expected one of waiting"),
        (round_of, 2**31, "expected 0 to"),
        (round_of, 2**63, "expected 0 to"),
        (spec_of, b"{", "run specification"),
        (spec_of, b'{"name":"r","nodes":0,"rounds":1,"base":"b"}', "nodes: expected greater"),
        (spec_of, b'{"name":"r","nodes":1,"rounds":1,"base":"b","seeed":1}', "key seed"),
    ],
)
def test_what_cannot_be_is_refused(read: Callable[[Any], Any], value: Any, told: str) -> None:
    with pytest.raises(BadMessage, match=told):
        read(value)


def test_the_empty_digest_stands_for_none() -> None:
    assert digest_or_none("") is None
    assert digest_or_none(GOOD) == GOOD


@pytest.mark.parametrize("found", [["b", "a"], ["a", "a"]])
def test_lists_of_nodes_are_sorted_and_name_each_once(found: list[str]) -> None:
    with pytest.raises(BadMessage, match="sorted and each node once"):
        epoch_of(coordinator_pb2.Epoch(number=0, from_round=0, members=found))
    with pytest.raises(BadMessage, match="sorted and each node once"):
        contributors_of([peer_pb2.Contributor(node=node, digest=GOOD) for node in found])


@pytest.mark.parametrize(
    "spoilt",
    [
        {"run": "UP"},
        {"state": "asleep"},
        {"revoked": ["XYZ"]},
        {"members": [coordinator_pb2.Member(node="a", address="nowhere")]},
        {"epochs": [coordinator_pb2.Epoch(number=2**40)]},
        {"committed": [coordinator_pb2.GlobalSet(phase="none")]},
    ],
    ids=lambda spoilt: next(iter(spoilt)),
)
def test_every_part_of_a_plan_is_checked(spoilt: dict[str, Any]) -> None:
    good: dict[str, Any] = {"run": "r", "version": 1, "state": "running"}
    plan_of(coordinator_pb2.Plan(**good))
    with pytest.raises(BadMessage):
        plan_of(coordinator_pb2.Plan(**{**good, **spoilt}))


def test_members_are_checked() -> None:
    with pytest.raises(BadMessage, match="node"):
        member_of(coordinator_pb2.Member(node="", address="a:1"))
