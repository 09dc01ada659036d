"""The file of a journal: what is in it, how it begins, and how damage is found.

Only `weft.node.journal` uses this. Everything blocks on the disk.
"""

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from blake3 import blake3

from weft.node.errors import JournalBusy, JournalCorrupt, JournalFull, OtherJournal

FORMAT: Final = 1
"""Changes whenever an older weft could not read the file."""

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Primary codes: the lower byte of whichever extended one SQLite gives."""

_SCHEMA: Final = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE entries (
        seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL, digest TEXT NOT NULL
    )""",
)


def is_begun(path: Path, database: sqlite3.Connection) -> bool:
    """Check the file's structure; False where there is nothing in it at all."""
    found = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise corrupt(path, str(found[0]))
    database.execute("PRAGMA journal_mode = TRUNCATE")
    database.execute("PRAGMA synchronous = FULL")
    return bool(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def begin(database: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    """Make the tables and write down whose the journal is, in one transaction."""
    whose = json.dumps(dict(identity), sort_keys=True)
    database.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        database.execute(statement)
    rows = [("format", str(FORMAT)), ("identity", whose), ("head", f"0 {_origin(whose)}")]
    database.executemany("INSERT INTO about VALUES (?, ?)", rows)
    database.execute("COMMIT")


def verified(
    path: Path, database: sqlite3.Connection, identity: Mapping[str, str]
) -> tuple[str, int]:
    """Follow the chain of digests from the identity to the head; returns its end.

    All of it is read in one transaction: what another process appends meanwhile is seen
    whole or not at all.
    """
    database.execute("BEGIN")
    try:
        return _end_of_chain(path, database, identity)
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _end_of_chain(
    path: Path, database: sqlite3.Connection, identity: Mapping[str, str]
) -> tuple[str, int]:
    about = dict(database.execute("SELECT key, value FROM about").fetchall())
    if set(about) != {"format", "identity", "head"}:
        raise corrupt(path, f"it says {list(about)} about itself")
    _require_format(path, about["format"])
    digest, count = _origin(about["identity"]), 0
    for seq, kind, data, claimed in database.execute(
        "SELECT seq, kind, data, digest FROM entries ORDER BY seq"
    ):
        count += 1
        digest = digest_of(digest, count, str(kind), str(data))
        if seq != count or claimed != digest:
            raise corrupt(path, f"entry {count} is not what was written")
    if about["head"] != f"{count} {digest}":
        raise corrupt(path, f"it ends with entry {count}, which is not the one it should end with")
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


def _origin(identity: str) -> str:
    return blake3(f"weft journal {FORMAT} {identity}".encode()).hexdigest()


def digest_of(forerunner: str, seq: int, kind: str, data: str) -> str:
    """What an entry is known by: blake3 over itself and its forerunner's."""
    return blake3(json.dumps([forerunner, seq, kind, data]).encode()).hexdigest()


def marker_of(path: Path) -> Path:
    """The file beside a journal that says that it was begun."""
    return path.with_name(f"{path.name}.begun")


def mark(marker: Path) -> None:
    """Make the marker, durably."""
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


def failed(
    path: Path, error: sqlite3.Error | UnicodeDecodeError
) -> JournalCorrupt | JournalFull | JournalBusy:
    """Our error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return JournalFull(f"no room on disk for journal {path}; free some, the node then goes on")
    if code is not None and code & 0xFF in _BUSY:
        return JournalBusy(f"journal {path} is busy with another process; try again")
    return corrupt(path, str(error))


def corrupt(path: Path, found: str) -> JournalCorrupt:
    """The error for a journal that cannot be trusted, with what to do."""
    return JournalCorrupt(
        f"journal {path} cannot be trusted: {found}; restore the data folder from a backup, "
        "or remove the whole folder and let the node join again"
    )
