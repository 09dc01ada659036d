"""The journal: what a node must not forget, durable before it takes effect.

One SQLite file, one writer. `append` returns once the entry would survive a power
cut. SQLite runs with a rollback journal (TRUNCATE) and `synchronous=FULL` rather
than with a write-ahead log: all that was acknowledged is then in the one file,
and no lost side file can take entries along unseen. An append costs about a
millisecond on a local disk; a round makes about ten.

SQLite checks its pages' structure but not what is in them, so every entry holds
the blake3 of itself and its forerunner, and the newest of these stands in the
same file: an entry that was changed, or is missing at either end, is found when
the journal is opened. A file beside it says that the journal exists, so that a
lost one is an error and not a new beginning.

Blocking: every call waits for the disk; from asyncio use a thread.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from blake3 import blake3

from weft.node.errors import (
    BadEntry,
    JournalClosed,
    JournalCorrupt,
    JournalFull,
    OtherJournal,
)

FORMAT = 1
"""Changes whenever an older weft could not read the file."""

_SCHEMA = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE entries (
        seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL, digest TEXT NOT NULL
    )""",
)
_INSERT = "INSERT INTO entries (seq, kind, data, digest) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as it was appended: `seq` counts from 1 without gaps."""

    seq: int
    kind: str
    data: Mapping[str, object]


class EntryLog(Protocol):
    """What a node asks of a journal; `Journal` on disk, `MemoryJournal` in tests."""

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        """Add an entry; returns its number once it is durable."""
        ...

    def entries(self) -> list[Record]:
        """All entries, oldest first."""
        ...

    def close(self) -> None:
        """Let go of the file; append no more."""
        ...


class MemoryJournal:
    """The twin without a disk: same rules, gone with the process."""

    def __init__(self) -> None:
        self._records: list[tuple[str, str]] = []
        self._closed = False

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        """See `EntryLog`; raises what `Journal.append` raises."""
        self._require_open()
        self._records.append((kind, _canonical(kind, entry)))
        return len(self._records)

    def entries(self) -> list[Record]:
        """See `EntryLog`."""
        self._require_open()
        return [
            Record(seq, kind, json.loads(data))
            for seq, (kind, data) in enumerate(self._records, start=1)
        ]

    def close(self) -> None:
        """See `EntryLog`."""
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise JournalClosed("the journal is closed; open it again")


class Journal:
    """The journal on disk; build it with `open`.

    Invariant: `entries()` is exactly what was appended, in order, or an error.
    Safe to call from several threads, one at a time.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, head: str, count: int) -> None:
        self._path = path
        self._database = database
        self._head = head
        self._count = count
        self._lock = threading.Lock()
        self._closed = False
        self._failure: JournalCorrupt | None = None

    @classmethod
    def open(cls, path: Path, *, identity: Mapping[str, str]) -> Self:
        """Open the journal, or begin it where there has never been one.

        Args:
            path: the file; its folder exists.
            identity: whose it is, such as run and node; fixed when it is begun.

        Raises:
            OtherJournal: begun for another run, node or format; names both.
            JournalCorrupt: lost, cut short or changed; nothing is touched.
            JournalFull: no room to begin it.
        """
        began = _marker(path)
        if began.exists() and (not path.exists() or path.stat().st_size == 0):
            state = "is empty" if path.exists() else "is gone"
            raise _corrupt(path, f"it was begun here before ({began.name}) and {state}")
        database = _connect(path)
        try:
            if not _is_begun(path, database):
                if began.exists():
                    raise _corrupt(path, "it was begun and holds nothing")
                _begin(database, identity)
            head, count = _verified(path, database, identity)
            _mark(began)
            return cls(path, database, head, count)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # The module cannot even decode what SQLite says about some broken schemas.
            database.close()
            raise _failed(path, error) from error
        except BaseException:
            database.close()
            raise

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        """Add an entry; returns its number once it would survive a power cut.

        Raises:
            BadEntry: not JSON.
            JournalFull: no room; nothing was added, trying again may work.
            JournalCorrupt: the disk failed, or a second writer is at work; this
                journal takes no more entries, for none could be trusted.
        """
        data = _canonical(kind, entry)
        with self._lock:
            self._require_open()
            seq, digest = self._count + 1, _digest(self._head, self._count + 1, kind, data)
            try:
                self._commit(seq, kind, data, digest)
            except sqlite3.Error as error:
                failure = _failed(self._path, error)
                if isinstance(failure, JournalCorrupt):
                    self._failure = failure
                raise failure from error
            self._count, self._head = seq, digest
            return seq

    def entries(self) -> list[Record]:
        """All entries, oldest first, as they were checked when the journal was opened."""
        with self._lock:
            self._require_open()
            query = "SELECT seq, kind, data FROM entries ORDER BY seq"
            try:
                rows = self._database.execute(query).fetchall()
            except sqlite3.Error as error:
                raise _failed(self._path, error) from error
            return [Record(seq, kind, json.loads(data)) for seq, kind, data in rows]

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise JournalClosed(f"journal {self._path} is closed; open it again")
        if self._failure is not None:
            raise self._failure

    def _commit(self, seq: int, kind: str, data: str, digest: str) -> None:
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        try:
            execute(_INSERT, (seq, kind, data, digest))
            execute("UPDATE about SET value = ? WHERE key = 'head'", (f"{seq} {digest}",))
            execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                execute("ROLLBACK")
            raise


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Used under one lock, from whichever thread the caller appends in.
        return sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    except sqlite3.Error as error:
        raise _failed(path, error) from error


def _is_begun(path: Path, database: sqlite3.Connection) -> bool:
    """Check the file's structure; False where there is nothing in it at all."""
    found = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise _corrupt(path, str(found[0]))
    database.execute("PRAGMA journal_mode = TRUNCATE")
    database.execute("PRAGMA synchronous = FULL")
    return bool(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _begin(database: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    whose = json.dumps(dict(identity), sort_keys=True)
    database.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        database.execute(statement)
    rows = [("format", str(FORMAT)), ("identity", whose), ("head", f"0 {_origin(whose)}")]
    database.executemany("INSERT INTO about VALUES (?, ?)", rows)
    database.execute("COMMIT")


def _verified(
    path: Path, database: sqlite3.Connection, identity: Mapping[str, str]
) -> tuple[str, int]:
    """Follow the chain of digests from the identity to the head; returns its end."""
    about = dict(database.execute("SELECT key, value FROM about").fetchall())
    if set(about) != {"format", "identity", "head"}:
        raise _corrupt(path, f"it says {list(about)} about itself")
    _require_format(path, about["format"])
    digest, count = _origin(about["identity"]), 0
    for seq, kind, data, claimed in database.execute(
        "SELECT seq, kind, data, digest FROM entries ORDER BY seq"
    ):
        count += 1
        digest = _digest(digest, count, str(kind), str(data))
        if seq != count or claimed != digest:
            raise _corrupt(path, f"entry {count} is not what was written")
    if about["head"] != f"{count} {digest}":
        raise _corrupt(path, f"it ends with entry {count}, which is not the one it should end with")
    _require_identity(path, json.loads(about["identity"]), identity)
    return digest, count


def _require_format(path: Path, found: str) -> None:
    if found != str(FORMAT):
        raise OtherJournal(
            f"journal {path} has format {found!r}, this weft reads format {FORMAT}; "
            "run the weft that wrote it, or give the node a new data folder"
        )


def _require_identity(path: Path, held: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for key in sorted({*held, *wanted}):
        if held.get(key) != wanted.get(key):
            raise OtherJournal(
                f"journal {path} belongs to {key} {held.get(key)!r}, not {wanted.get(key)!r}; "
                "give this node a data folder of its own"
            )


def _canonical(kind: str, entry: Mapping[str, object]) -> str:
    try:
        return json.dumps(dict(entry), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadEntry(f"journal entry {kind!r} cannot be written as JSON: {error}") from error


def _origin(identity: str) -> str:
    return blake3(f"weft journal {FORMAT} {identity}".encode()).hexdigest()


def _digest(forerunner: str, seq: int, kind: str, data: str) -> str:
    return blake3(json.dumps([forerunner, seq, kind, data]).encode()).hexdigest()


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.begun")


def _mark(marker: Path) -> None:
    if marker.exists():
        return
    descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b"A weft node keeps its journal beside this file.\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    folder = os.open(marker.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _failed(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> JournalCorrupt | JournalFull:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return JournalFull(f"no room on disk for journal {path}; free some, the node then goes on")
    return _corrupt(path, str(error))


def _corrupt(path: Path, found: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"journal {path} cannot be trusted: {found}; restore the data folder from a backup, "
        "or remove the whole folder and let the node join again"
    )
