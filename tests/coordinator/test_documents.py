"""What is stored reads back as it was, or says that it is not."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coordinator.stories import POLICIES, STORIES, Says, spec, told
from weft.coordinator import documents
from weft.coordinator.documents import (
    Entry,
    Line,
    entry_line,
    entry_of,
    epoch_lines,
    head_line,
    member_lines,
    record_of,
)
from weft.coordinator.errors import DatabaseDamaged
from weft.coordinator.membership import create
from weft.coordinator.records import Created, RunRecord
from weft.protocol.run import NodeId


def stored(record: RunRecord) -> RunRecord:
    return record_of(
        record.name, head_line(record), member_lines(record, None), epoch_lines(record, None)
    )


@settings(max_examples=40)
@given(POLICIES, STORIES)
def test_records_and_events_read_back_as_they_were(policy: str, story: list[Says]) -> None:
    for event, _, after in told(policy, story):
        assert stored(after) == after
        entry = Entry(revision=after.revision, version=after.plan.version, at=1.5, event=event)
        assert entry_of(after.name, after.revision, entry_line(after.name, entry)) == entry


@settings(max_examples=40)
@given(POLICIES, STORIES)
def test_lines_of_what_changed_build_the_whole(policy: str, story: list[Says]) -> None:
    before = None
    members: dict[NodeId, Line] = {}
    epochs: dict[int, Line] = {}
    for _, _, after in told(policy, story):
        members |= member_lines(after, before)
        epochs |= epoch_lines(after, before)
        members = {node: line for node, line in members.items() if node in after.members}
        assert record_of(after.name, head_line(after), members, epochs) == after
        before = after


def test_a_change_of_one_member_is_one_line() -> None:
    steps = told("wait", [Says("join", NodeId("c")), Says("announce", NodeId("b"))])
    before, after = steps[-1][1:]
    assert set(member_lines(after, before)) == {"b"}
    assert epoch_lines(after, before) == {}


def test_a_member_of_an_older_version_has_no_serial() -> None:
    record = told("wait", [Says("join", NodeId("c"))])[-1][2]
    members = member_lines(record, None)
    older = members[NodeId("a")].text.replace(',"serial":""', "")
    assert older != members[NodeId("a")].text
    members[NodeId("a")] = Line(text=older, seal=documents._seal(("member", "quilt", "a"), older))
    assert record_of(record.name, head_line(record), members, epoch_lines(record, None)) == record


@pytest.mark.parametrize("place", ["text", "seal"])
def test_a_column_of_another_type_is_noticed(place: str) -> None:
    record = create(spec(), at=0.0)
    line = head_line(record)
    blob: Any = getattr(line, place).encode()
    with pytest.raises(DatabaseDamaged, match="restore the database"):
        record_of(record.name, dataclasses.replace(line, **{place: blob}), {}, {})


def test_the_creation_is_an_entry_as_well() -> None:
    entry = Entry(revision=1, version=1, at=2.0, event=Created(spec=spec()))
    record = create(spec(), at=2.0)
    assert entry_of(record.name, 1, entry_line(record.name, entry)) == entry


@given(st.data())
def test_a_flipped_character_is_noticed(data: st.DataObject) -> None:
    record = told("wait", [Says("join", NodeId("c"))])[-1][2]
    lines = {str(node): line for node, line in member_lines(record, None).items()}
    lines["head"] = head_line(record)
    lines |= {str(number): line for number, line in epoch_lines(record, None).items()}
    name = data.draw(st.sampled_from(sorted(lines)))
    text = lines[name].text
    place = data.draw(st.integers(0, len(text) - 1))
    flipped = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
    lines[name] = dataclasses.replace(lines[name], text=flipped)
    members = {NodeId(node): lines[node] for node in "abc"}
    with pytest.raises(DatabaseDamaged, match="restore the database"):
        record_of(record.name, lines["head"], members, {0: lines["0"]})


def test_a_line_in_another_place_or_missing_is_noticed() -> None:
    record = told("wait", [Says("join", NodeId("c"))])[-1][2]
    members = member_lines(record, None)
    epochs = epoch_lines(record, None)
    swapped = {**members, NodeId("a"): members[NodeId("b")]}
    with pytest.raises(DatabaseDamaged, match="member quilt a is not what was written"):
        record_of(record.name, head_line(record), swapped, epochs)
    del members[NodeId("c")]
    with pytest.raises(DatabaseDamaged, match="3 members and 1 epochs were stored, 2 and 1"):
        record_of(record.name, head_line(record), members, epochs)


def test_a_line_of_another_version_names_the_way_out() -> None:
    record = create(spec(), at=0.0)
    line = head_line(record)
    other = line.text.replace('"ahead":0', '"ahead":"soon"')
    forged = Line(text=other, seal=documents._seal(("run", "quilt"), other))
    with pytest.raises(DatabaseDamaged, match="written by another version of weft"):
        record_of(record.name, forged, {}, {})
