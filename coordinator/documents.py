"""Records and events as sealed lines of JSON, the form in which they are stored.

Pure. A run is cut into one line for itself and one for each member and epoch, so
that a change writes what changed. Each line carries a seal over its place and its
text: a database does not notice a flipped byte in a row, we do.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from weft.coordinator.errors import DatabaseDamaged
from weft.coordinator.records import (
    Created,
    Event,
    Joined,
    LeasesExpired,
    Left,
    MemberRecord,
    Promised,
    Reported,
    Revoked,
    RunRecord,
    SetOverdue,
    StateRequested,
    VersionPresented,
)
from weft.protocol.run import Epoch, Member, NodeId, RunName

T = TypeVar("T")
Place: TypeAlias = tuple[str, ...]
"""Where a line belongs: ("run", NAME), ("member", NAME, NODE), ..."""

_EVENTS: Final = (
    Created,
    Joined,
    LeasesExpired,
    Left,
    Promised,
    Reported,
    Revoked,
    SetOverdue,
    StateRequested,
    VersionPresented,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A sealed text."""

    text: str
    seal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One durable change of a run: what happened, and which versions it gave."""

    revision: int
    version: int
    at: float
    event: Created | Event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A run without its members and epochs, and how many of them there are."""

    record: RunRecord
    members: int
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seat:
    """A member: what it said, and its entry in the plan's address book."""

    record: MemberRecord
    entry: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    revision: int
    version: int
    at: float
    kind: str
    event: dict[str, object]


_HEAD: Final = TypeAdapter(_Head)
_SEAT: Final = TypeAdapter(_Seat)
_EPOCH: Final = TypeAdapter(Epoch)
_NOTE: Final = TypeAdapter(_Note)
_BY_KIND: Final = {kind.__name__: TypeAdapter[Created | Event](kind) for kind in _EVENTS}


def head_line(record: RunRecord) -> Line:
    """The line of a run: all but its members and epochs."""
    plan = replace(record.plan, members=(), epochs=())
    head = _Head(
        record=replace(record, plan=plan, members={}),
        members=len(record.members),
        epochs=len(record.plan.epochs),
    )
    return _sealed(("run", record.name), _HEAD.dump_json(head))


def member_lines(record: RunRecord, before: RunRecord | None) -> dict[NodeId, Line]:
    """The lines of the members that differ from those of a record stored before."""
    entries = {member.node: member for member in record.plan.members}
    old = {} if before is None else {member.node: member for member in before.plan.members}
    said = {} if before is None else before.members
    return {
        node: _sealed(
            ("member", record.name, node),
            _SEAT.dump_json(_Seat(record=member, entry=entries[node])),
        )
        for node, member in record.members.items()
        if member != said.get(node) or entries[node] != old.get(node)
    }


def epoch_lines(record: RunRecord, before: RunRecord | None) -> dict[int, Line]:
    """The lines of the epochs that a record stored before does not have."""
    known = 0 if before is None else len(before.plan.epochs)
    return {
        epoch.number: _sealed(("epoch", record.name, str(epoch.number)), _EPOCH.dump_json(epoch))
        for epoch in record.plan.epochs[known:]
    }


def entry_line(run: RunName, entry: Entry) -> Line:
    """The line of a change in a run's history."""
    kind = type(entry.event).__name__
    note = _Note(
        revision=entry.revision,
        version=entry.version,
        at=entry.at,
        kind=kind,
        event=_BY_KIND[kind].dump_python(entry.event, mode="json"),
    )
    return _sealed(("history", run, str(entry.revision)), _NOTE.dump_json(note))


def record_of(
    run: RunName, head: Line, members: Mapping[NodeId, Line], epochs: Mapping[int, Line]
) -> RunRecord:
    """A run from its lines.

    Raises:
        DatabaseDamaged: a line is missing, not the one that was written, or not
            in its place.
    """
    read = _parsed(_HEAD, ("run", run), head)
    if (read.members, read.epochs) != (len(members), len(epochs)):
        raise DatabaseDamaged(
            f"run {run}: {read.members} members and {read.epochs} epochs were stored, "
            f"{len(members)} and {len(epochs)} are there; restore the database from a backup"
        )
    seats = [_parsed(_SEAT, ("member", run, node), members[node]) for node in sorted(members)]
    log = [
        _parsed(_EPOCH, ("epoch", run, str(number)), epochs[number]) for number in sorted(epochs)
    ]
    plan = replace(read.record.plan, members=tuple(seat.entry for seat in seats), epochs=tuple(log))
    return replace(
        read.record, plan=plan, members={seat.record.node: seat.record for seat in seats}
    )


def entry_of(run: RunName, revision: int, line: Line) -> Entry:
    """A change of a run from its line.

    Raises:
        DatabaseDamaged: it is not the line that was written.
    """
    note = _parsed(_NOTE, ("history", run, str(revision)), line)
    event = _BY_KIND[note.kind].validate_json(json.dumps(note.event))
    return Entry(revision=note.revision, version=note.version, at=note.at, event=event)


def _sealed(place: Place, text: bytes) -> Line:
    return Line(text=text.decode(), seal=_seal(place, text.decode()))


def _seal(place: Place, text: str) -> str:
    return blake3(json.dumps([*place, text]).encode()).hexdigest(16)


def _parsed(adapter: TypeAdapter[T], place: Place, line: Line) -> T:
    stored = (*place, line.text)
    # A flipped byte can change the type of a column, too: SQLite keeps it in the row.
    if not all(isinstance(one, str) for one in stored) or _seal(place, line.text) != line.seal:
        raise DatabaseDamaged(
            f"the stored {' '.join(map(str, place))} is not what was written; restore the "
            "database from a backup, nothing was changed"
        )
    try:
        return adapter.validate_json(line.text)
    except ValidationError as error:
        raise DatabaseDamaged(
            f"the stored {' '.join(place)} was written by another version of weft: "
            f"{error.error_count()} fields do not fit; use the version that wrote it"
        ) from error
