"""Between generated messages and the frozen values of `weft.protocol.run`.

`plan_message(plan)` makes a message, `plan_of(message)` reads one and refuses
what cannot be: digests that are not digests, unknown states, rounds beyond any
run. Values read here can be trusted in form; nothing is said about permission.

    report_of(report_message(run, report)) == report

Stable within a protocol version.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message
from pydantic import ValidationError

from weft.protocol.configuration import explain
from weft.protocol.errors import BadMessage
from weft.protocol.run import (
    Digest,
    Epoch,
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
from weft.protocol.v1 import coordinator_pb2, peer_pb2

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_RUN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%a-z]+\]|[^\s\[\]:/]{1,253}):(?P<port>[0-9]{1,5})")
_LARGEST_COUNT: Final = 2**31 - 1

_Named = TypeVar("_Named", Phase, RunState)
_Chosen = TypeVar("_Chosen")
_Sent = TypeVar("_Sent", bound=Message)


def digest_of(text: str, what: str = "digest") -> Digest:
    """A digest: 64 lower-case hexadecimal digits.

    Raises:
        BadMessage: anything else, with `what` it was to name.
    """
    return Digest(_matching(_DIGEST, text, what, "64 hexadecimal digits"))


def digest_or_none(text: str, what: str = "digest") -> Digest | None:
    """A digest, or None for the empty string that stands for it on the wire."""
    return digest_of(text, what) if text else None


def node_of(text: str) -> NodeId:
    """A node's name, as its certificate could hold it."""
    return NodeId(_matching(_NODE, text, "node", "lower-case letters, digits and inner hyphens"))


def run_name_of(text: str) -> RunName:
    """A run's name."""
    return RunName(_matching(_RUN, text, "run", "a name such as digits-1"))


def address_of(text: str) -> str:
    """An address that can be dialled: host:port, port 1 to 65535, IPv6 in brackets."""
    _matching(_ADDRESS, text, "address", "host:port")
    if not 1 <= int(text.rpartition(":")[2]) <= 65535:
        raise BadMessage(f"address {text!r}: the port must be 1 to 65535")
    return text


def phase_of(text: str) -> Phase:
    """A phase of the global merge."""
    return _named(Phase, text, "phase")


def state_of(text: str) -> RunState:
    """A run's state."""
    return _named(RunState, text, "state")


def round_of(number: int, what: str = "round") -> int:
    """A round, or another small count; the wire holds more than any run can reach."""
    if not 0 <= number <= _LARGEST_COUNT:
        raise BadMessage(f"{what} {number}: expected 0 to {_LARGEST_COUNT}")
    return number


def spec_of(data: bytes) -> RunSpec:
    """A run's specification from its canonical JSON.

    Raises:
        BadMessage: not JSON, or not a specification; names every wrong key.
    """
    try:
        return RunSpec.from_bytes(data)
    except ValidationError as error:
        raise BadMessage(f"run specification: {explain(error, RunSpec)}") from error


def member_message(member: Member) -> coordinator_pb2.Member:
    """A member, for the wire."""
    return coordinator_pb2.Member(
        node=member.node, address=member.address, data_size=member.data_size
    )


def member_of(message: coordinator_pb2.Member) -> Member:
    """A member, from the wire."""
    return Member(
        node=node_of(message.node),
        address=address_of(message.address),
        data_size=message.data_size,
    )


def epoch_message(epoch: Epoch) -> coordinator_pb2.Epoch:
    """An epoch, for the wire."""
    return coordinator_pb2.Epoch(
        number=epoch.number, from_round=epoch.from_round, members=epoch.members
    )


def epoch_of(message: coordinator_pb2.Epoch) -> Epoch:
    """An epoch, from the wire: its members are sorted and named once."""
    members = tuple(node_of(name) for name in message.members)
    _require_sorted(members, f"epoch {message.number}: members")
    return Epoch(
        number=round_of(message.number, "epoch"),
        from_round=round_of(message.from_round),
        members=members,
    )


def contributors_message(
    contributors: Iterable[tuple[NodeId, Digest]],
) -> list[peer_pb2.Contributor]:
    """Pairs of node and digest, for the wire."""
    return [peer_pb2.Contributor(node=node, digest=digest) for node, digest in contributors]


def contributors_of(
    messages: Iterable[peer_pb2.Contributor],
) -> tuple[tuple[NodeId, Digest], ...]:
    """Pairs of node and digest, from the wire: sorted by node, each node once."""
    pairs = tuple((node_of(one.node), digest_of(one.digest)) for one in messages)
    _require_sorted(tuple(node for node, _ in pairs), "contributors")
    return pairs


def global_set_message(chosen: GlobalSet) -> coordinator_pb2.GlobalSet:
    """The set of a global merge, for the wire."""
    return coordinator_pb2.GlobalSet(
        phase=chosen.phase, contributors=contributors_message(chosen.contributors)
    )


def global_set_of(message: coordinator_pb2.GlobalSet) -> GlobalSet:
    """The set of a global merge, from the wire."""
    return GlobalSet(
        phase=phase_of(message.phase), contributors=contributors_of(message.contributors)
    )


def plan_message(plan: Plan) -> coordinator_pb2.Plan:
    """A plan, for the wire."""
    return coordinator_pb2.Plan(
        run=plan.run,
        version=plan.version,
        state=plan.state,
        members=_each(member_message, plan.members),
        epochs=_each(epoch_message, plan.epochs),
        proposed=_each(global_set_message, plan.proposed),
        committed=_each(global_set_message, plan.committed),
        revoked=sorted(plan.revoked),
    )


def plan_of(message: coordinator_pb2.Plan) -> Plan:
    """A plan, from the wire."""
    return Plan(
        run=run_name_of(message.run),
        version=message.version,
        state=state_of(message.state),
        members=tuple(member_of(one) for one in message.members),
        epochs=tuple(epoch_of(one) for one in message.epochs),
        proposed=tuple(global_set_of(one) for one in message.proposed),
        committed=tuple(global_set_of(one) for one in message.committed),
        revoked=frozenset(
            _matching(_SERIAL, serial, "revoked serial", "hexadecimal digits")
            for serial in message.revoked
        ),
    )


def report_message(run: RunName, report: Report) -> coordinator_pb2.ReportRequest:
    """A node's report on a run, for the wire."""
    return coordinator_pb2.ReportRequest(
        run=run,
        state=report.state,
        round=report.round,
        plan_version=report.plan_version,
        metrics=dict(report.metrics),
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        merges_adopted=report.merges_adopted,
        merges_rejected=report.merges_rejected,
        message=report.message,
        announced={phase.value: digest for phase, digest in report.announced.items()},
        result=report.result or "",
        members_digest=report.members_digest or "",
    )


def report_of(message: coordinator_pb2.ReportRequest) -> Report:
    """A node's report, from the wire; the run that it is about is `message.run`."""
    return Report(
        state=message.state,
        round=round_of(message.round),
        plan_version=message.plan_version,
        metrics=dict(message.metrics),
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        merges_adopted=message.merges_adopted,
        merges_rejected=message.merges_rejected,
        message=message.message,
        announced={
            phase_of(phase): digest_of(digest, f"announced {phase}")
            for phase, digest in message.announced.items()
        },
        result=digest_or_none(message.result, "result"),
        members_digest=digest_or_none(message.members_digest, "members_digest"),
    )


def _each(convert: Callable[[_Chosen], _Sent], values: Iterable[_Chosen]) -> list[_Sent]:
    return [convert(value) for value in values]


def _named(kind: type[_Named], text: str, what: str) -> _Named:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        raise BadMessage(f"{what} {_short(text)}: expected one of {known}") from None


def _matching(pattern: re.Pattern[str], text: str, what: str, expected: str) -> str:
    if pattern.fullmatch(text) is None:
        raise BadMessage(f"{what} {_short(text)}: expected {expected}")
    return text


def _require_sorted(names: tuple[NodeId, ...], what: str) -> None:
    if any(left >= right for left, right in itertools.pairwise(names)):
        raise BadMessage(f"{what}: expected sorted and each node once, found {', '.join(names)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
