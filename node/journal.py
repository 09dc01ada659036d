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
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from weft.node.errors import BadEntry, JournalClosed, JournalCorrupt
from weft.node.journal_file import (
    begin,
    corrupt,
    digest_of,
    failed,
    is_begun,
    mark,
    marker_of,
    verified,
)

BUSY_S: Final = 30.0
"""How long a call waits while another process reads or writes the file."""

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
            JournalBusy: another process held it for too long; trying again may work.
        """
        began = marker_of(path)
        if began.exists() and (not path.exists() or path.stat().st_size == 0):
            state = "is empty" if path.exists() else "is gone"
            raise corrupt(path, f"it was begun here before ({began.name}) and {state}")
        database = _connect(path)
        try:
            if not is_begun(path, database):
                if began.exists():
                    raise corrupt(path, "it was begun and holds nothing")
                begin(database, identity)
            head, count = verified(path, database, identity)
            mark(began)
            return cls(path, database, head, count)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # The module cannot even decode what SQLite says about some broken schemas.
            database.close()
            raise failed(path, error) from error
        except BaseException:
            database.close()
            raise

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        """Add an entry; returns its number once it would survive a power cut.

        Raises:
            BadEntry: not JSON.
            JournalFull: no room; nothing was added, trying again may work.
            JournalBusy: another process held the file for too long; the same.
            JournalCorrupt: the disk failed, or a second writer is at work; this
                journal takes no more entries, for none could be trusted.
        """
        data = _canonical(kind, entry)
        with self._lock:
            self._require_open()
            seq, digest = self._count + 1, digest_of(self._head, self._count + 1, kind, data)
            try:
                self._commit(seq, kind, data, digest)
            except sqlite3.Error as error:
                failure = failed(self._path, error)
                if isinstance(failure, JournalCorrupt):
                    self._failure = failure
                raise failure from error
            self._count, self._head = seq, digest
            return seq

    def entries(self) -> list[Record]:
        """All entries, oldest first: those checked when it was opened, and those added here.

        What another process has added since is not among them.

        Raises:
            JournalBusy: another process held the file for too long; trying again may work.
        """
        with self._lock:
            self._require_open()
            query = "SELECT seq, kind, data FROM entries WHERE seq <= ? ORDER BY seq"
            try:
                rows = self._database.execute(query, (self._count,)).fetchall()
            except sqlite3.Error as error:
                raise failed(self._path, error) from error
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
        return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
    except sqlite3.Error as error:
        raise failed(path, error) from error


def _canonical(kind: str, entry: Mapping[str, object]) -> str:
    try:
        return json.dumps(dict(entry), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadEntry(f"journal entry {kind!r} cannot be written as JSON: {error}") from error
