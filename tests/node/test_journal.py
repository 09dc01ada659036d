"""The journal: one contract for disk and memory, kills, and every kind of damage."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from weft.errors import Unavailable
from weft.node import journal as journal_module
from weft.node import journal_file
from weft.node.errors import (
    BadEntry,
    JournalBusy,
    JournalClosed,
    JournalCorrupt,
    JournalFull,
    OtherJournal,
)
from weft.node.journal import EntryLog, Journal, MemoryJournal, Record

IDENTITY = {"run": "digits", "node": "node-1"}
KILLS = 32


@pytest.fixture(params=["disk", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EntryLog]:
    opened: EntryLog = MemoryJournal()
    if request.param == "disk":
        opened = Journal.open(tmp_path / "journal.sqlite", identity=IDENTITY)
    yield opened
    opened.close()


def filled(path: Path, count: int = 5) -> list[Record]:
    with Journal.open(path, identity=IDENTITY) as journal:
        for number in range(count):
            journal.append("trained", {"round": number, "model": "file:" + "x" * 40})
        return journal.entries()


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal of sixty entries, as a file."""
    path = tmp_path_factory.mktemp("sixty") / "j"
    filled(path, 60)
    return path.read_bytes()


# -- the contract ------------------------------------------------------------


def test_entries_come_back_in_order_numbered_from_one(log: EntryLog) -> None:
    assert log.entries() == []
    assert log.append("joined", {"spec": "{}"}) == 1
    assert log.append("trained", {"round": 0, "metrics": {"loss": 0.25}, "state": None}) == 2
    assert log.entries() == [
        Record(1, "joined", {"spec": "{}"}),
        Record(2, "trained", {"round": 0, "metrics": {"loss": 0.25}, "state": None}),
    ]


def test_what_is_appended_is_a_copy(log: EntryLog) -> None:
    entry = {"members": ["a", "b"]}
    log.append("announced", entry)
    entry["members"].append("c")
    assert log.entries()[0].data == {"members": ["a", "b"]}


@pytest.mark.parametrize("value", [float("nan"), b"bytes", Path("x"), {1, 2}])
def test_what_json_cannot_hold_is_refused_and_not_added(log: EntryLog, value: object) -> None:
    with pytest.raises(BadEntry, match="journal entry 'trained' cannot be written as JSON"):
        log.append("trained", {"value": value})
    assert log.append("trained", {}) == 1


def test_a_closed_journal_says_so(log: EntryLog) -> None:
    log.close()
    log.close()
    with pytest.raises(JournalClosed, match="is closed"):
        log.append("joined", {})
    with pytest.raises(JournalClosed, match="is closed"):
        log.entries()


def test_appending_from_many_threads_loses_nothing(log: EntryLog) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda number: log.append("n", {"n": number}), range(40)))
    assert sorted(numbers) == list(range(1, 41))
    by_seq = {record.seq: record.data["n"] for record in log.entries()}
    assert [by_seq[seq] for seq in numbers] == list(range(40))


# -- on disk -----------------------------------------------------------------


def test_entries_outlive_the_process(tmp_path: Path) -> None:
    written = filled(tmp_path / "j")
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        assert journal.entries() == written
        assert journal.append("more", {}) == 6


def test_it_syncs_fully_and_keeps_all_in_one_file(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        journal.append("n", {})
        pragma = journal._database.execute
        assert pragma("PRAGMA synchronous").fetchone() == (2,)
        assert pragma("PRAGMA journal_mode").fetchone() == ("truncate",)
        shutil.copy(tmp_path / "j", tmp_path / "copy")  # the one file holds all
    with Journal.open(tmp_path / "copy", identity=IDENTITY) as journal:
        assert len(journal.entries()) == 1


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"run": "other", "node": "node-1"}, "belongs to run 'digits', not 'other'"),
        ({"run": "digits", "node": "node-2"}, "belongs to node 'node-1', not 'node-2'"),
        ({"run": "digits"}, "belongs to node 'node-1', not None"),
    ],
)
def test_the_journal_of_another_is_refused(
    identity: dict[str, str], message: str, tmp_path: Path
) -> None:
    filled(tmp_path / "j")
    with pytest.raises(OtherJournal, match=message):
        Journal.open(tmp_path / "j", identity=identity)


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    with sqlite3.connect(tmp_path / "j") as database:
        database.execute("UPDATE about SET value = '9' WHERE key = 'format'")
    database.close()
    with pytest.raises(OtherJournal, match="has format '9', this weft reads format 1"):
        Journal.open(tmp_path / "j", identity=IDENTITY)


def test_a_second_writer_ends_the_first(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "j", identity=IDENTITY) as one,
        Journal.open(tmp_path / "j", identity=IDENTITY) as two,
    ):
        one.append("n", {})
        with pytest.raises(JournalCorrupt):
            two.append("n", {})
        with pytest.raises(JournalCorrupt):  # for good
            two.entries()
        assert one.append("n", {}) == 2


def test_a_full_disk_adds_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    written = filled(tmp_path / "j")
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
        journal._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JournalFull, match="no room on disk"):
            journal.append("big", {"text": "x" * 50_000})
        assert journal.entries() == written
        journal._database.execute("PRAGMA max_page_count = 10000")
        assert journal.append("big", {"text": "x" * 50_000}) == len(written) + 1
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        assert len(journal.entries()) == len(written) + 1


# -- beside another process --------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BUSY_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_an_append_while_another_verifies_is_seen_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = filled(tmp_path / "j")
    check, busy = journal_file._require_format, 0
    with Journal.open(tmp_path / "j", identity=IDENTITY) as writer:

        def appending(path: Path, found: str) -> None:
            """Between what the journal says about itself and its entries."""
            nonlocal busy
            check(path, found)
            try:
                writer.append("n", {})
            except Unavailable:
                busy += 1

        monkeypatch.setattr(journal_file, "_require_format", appending)
        with Journal.open(tmp_path / "j", identity=IDENTITY) as reader:
            assert busy == 1
            assert writer.append("n", {}) == len(written) + 1
            assert reader.entries() == written


def test_a_reader_may_look_while_a_writer_works(tmp_path: Path) -> None:
    path = tmp_path / "j"
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), "0.003"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        for _ in range(50):
            with Journal.open(path, identity=IDENTITY) as journal:
                numbers = [record.data["n"] for record in journal.entries()]
            assert numbers == list(range(1, len(numbers) + 1))
    finally:
        died = child.poll()
        child.kill()
        child.communicate()
    assert died is None


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_stays_makes_an_append_wait_and_does_not_end_the_writer(
    tmp_path: Path,
) -> None:
    written = filled(tmp_path / "j")
    looking = sqlite3.connect(tmp_path / "j", isolation_level=None)
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        cursor = looking.execute("SELECT seq FROM entries")
        cursor.fetchone()
        for _ in range(2):
            with pytest.raises(JournalBusy, match="busy with another process; try again"):
                journal.append("n", {})
        assert journal.entries() == written
        cursor.close()
        looking.close()
        assert journal.append("n", {}) == len(written) + 1
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        assert len(journal.entries()) == len(written) + 1


@pytest.mark.usefixtures("impatient")
def test_a_journal_that_another_process_has_locked_is_busy_and_not_corrupt(tmp_path: Path) -> None:
    written = filled(tmp_path / "j")
    other = sqlite3.connect(tmp_path / "j", isolation_level=None)
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalBusy, match="try again"):
            Journal.open(tmp_path / "j", identity=IDENTITY)
        with pytest.raises(JournalBusy, match="try again"):
            journal.append("n", {})
        with pytest.raises(JournalBusy, match="try again"):
            journal.entries()
        other.close()
        assert journal.entries() == written
        assert journal.append("n", {}) == len(written) + 1


# -- damage ------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "one page", "text", "restarted"])
def test_a_damaged_journal_is_never_silently_empty(
    damage: str, sixty: bytes, tmp_path: Path
) -> None:
    path, data = tmp_path / "j", sixty
    path.write_bytes(data)
    Journal.open(path, identity=IDENTITY).close()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case "one page":
            path.write_bytes(data[:4096])
        case "text":
            path.write_bytes(b"I was a journal once.")
        case "restarted":  # somebody made an empty database of it
            path.unlink()
            sqlite3.connect(path).execute("VACUUM").connection.close()
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(JournalCorrupt, match="restore the data folder from a backup"):
        Journal.open(path, identity=IDENTITY)
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE seq = 5",
        "DELETE FROM entries WHERE seq = 2",
        "DELETE FROM entries",
        "UPDATE entries SET data = replace(data, '3', '4') WHERE seq = 4",
        "UPDATE entries SET kind = 'merged' WHERE seq = 1",
        "INSERT INTO entries SELECT 6, kind, data, digest FROM entries WHERE seq = 5",
        "UPDATE about SET value = replace(value, 'node-1', 'node-2') WHERE key = 'identity'",
        "UPDATE about SET value = '4 ' || substr(value, 3) WHERE key = 'head'",
        "DELETE FROM about WHERE key = 'head'",
        "DROP TABLE entries",
    ],
)
def test_a_change_that_sqlite_finds_fine_is_found(statement: str, tmp_path: Path) -> None:
    filled(tmp_path / "j")
    database = sqlite3.connect(tmp_path / "j", isolation_level=None)
    database.execute(statement)
    database.close()
    with pytest.raises(JournalCorrupt):
        Journal.open(tmp_path / "j", identity=IDENTITY)


def test_one_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    written = filled(tmp_path / "j", 12)
    data = (tmp_path / "j").read_bytes()
    generator = random.Random(5)
    inside = [i for i, byte in enumerate(data) if byte]  # the rest is free space
    offsets = [*range(100), *generator.sample(inside, 400)]
    found = 0
    for offset in offsets:
        path = tmp_path / "flipped"
        flipped = bytearray(data)
        flipped[offset] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        (tmp_path / "flipped.begun").touch()
        try:
            with Journal.open(path, identity=IDENTITY) as journal:
                assert journal.entries() == written, f"byte {offset}"
        except (JournalCorrupt, OtherJournal):
            found += 1
    assert found > 350  # all but the header's counters and the like


def test_a_journal_that_died_while_it_was_begun_can_be_begun_again(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"")
    with Journal.open(tmp_path / "j", identity=IDENTITY) as journal:
        assert journal.append("n", {}) == 1


# -- kills -------------------------------------------------------------------

APPENDER = """
import os, sys, time
from pathlib import Path
from weft.node.journal import Journal
assert "torch" not in sys.modules
journal = Journal.open(Path(sys.argv[1]), identity={"run": "digits", "node": "node-1"})
number = len(journal.entries())
while True:
    number += 1
    assert journal.append("n", {"n": number, "pad": "x" * (number * 37 % 3000)}) == number
    os.write(1, b"%d\\n" % number)
    time.sleep(float(sys.argv[2]))
"""


def killed_after(path: Path, delay_s: float) -> int:
    """Let a child append, kill it; returns the last number that it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), "0"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(delay_s)
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    whole = [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]
    return int(whole[-1])


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    generator = random.Random(11)
    path, numbers = tmp_path / "j", []
    for _ in range(KILLS):
        acknowledged = killed_after(path, generator.random() * 0.02)
        with Journal.open(path, identity=IDENTITY) as journal:
            numbers = [record.data["n"] for record in journal.entries()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert acknowledged <= len(numbers) <= acknowledged + 1
    assert len(numbers) > KILLS
