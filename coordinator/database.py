"""The durable repository: SQLite by default, any database that SQLAlchemy speaks.

SQLite runs with a write-ahead log and `synchronous=FULL`: a change that `commit`
has returned from survives a power cut. Each transaction begins as a writer, and
checks the revision that it follows, so that two coordinators on one database
cannot both go on. Every call blocks; the coordinator calls from a thread.
"""

import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError

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
from weft.coordinator.errors import (
    DatabaseDamaged,
    DatabaseFull,
    RunNotFound,
    StorageFailed,
    Superseded,
    WrongDatabase,
)
from weft.coordinator.records import RunRecord
from weft.coordinator.repository import Change, require_next
from weft.errors import InvalidInput
from weft.protocol.run import NodeId, RunName

FORMAT: Final = "1"
_BUSY_MS: Final = 5000

_TABLES: Final = sa.MetaData()
_FACTS: Final = sa.Table(
    "facts",
    _TABLES,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)


def _lines(name: str, *keys: "sa.Column[Any]") -> sa.Table:
    text = sa.Column("text", sa.Text, nullable=False)
    seal = sa.Column("seal", sa.String(32), nullable=False)
    run = sa.Column("run", sa.String(64), primary_key=True)
    return sa.Table(name, _TABLES, run, *keys, text, seal)


_RUNS: Final = _lines("runs", sa.Column("revision", sa.Integer, nullable=False))
_MEMBERS: Final = _lines("members", sa.Column("node", sa.String(64), primary_key=True))
_EPOCHS: Final = _lines("epochs", sa.Column("number", sa.Integer, primary_key=True))
_HISTORY: Final = _lines("history", sa.Column("revision", sa.Integer, primary_key=True))


class SqlRepository:
    """Runs in a database; see `weft.coordinator.repository.Repository`.

    Args:
        url: what SQLAlchemy connects to, such as `sqlite:////var/lib/weft/runs.sqlite`.
        federation: the federation whose runs are kept.
        identity: the identity that the database must have; None where the data
            folder is new, and the database may be new as well.

    Raises:
        InvalidInput: not a URL, or no driver for it.
        DatabaseDamaged: missing although it was there before, or not whole.
        WrongDatabase: of another data folder, federation or version of weft.
    """

    def __init__(self, url: str, *, federation: str, identity: str | None = None) -> None:
        self._engine = _engine(url)
        self._where = self._engine.url.render_as_string(hide_password=True)
        self._last: dict[RunName, RunRecord] = {}
        try:
            self.identity = self._opened(federation, identity)
        except BaseException:
            self._engine.dispose()
            raise

    def _opened(self, federation: str, identity: str | None) -> str:
        with self._transaction() as connection:
            _check_whole(connection, self._where)
            facts = _facts(connection)
            if not facts and identity is not None:
                raise DatabaseDamaged(
                    f"{self._where}: the database {identity} was here and is missing or empty; "
                    "restore it from a backup, or start in a new data folder"
                )
            if not facts:
                facts = {"format": FORMAT, "federation": federation}
                facts["identity"] = secrets.token_hex(8)
                _TABLES.create_all(connection)
                rows = [{"name": name, "value": value} for name, value in facts.items()]
                connection.execute(_FACTS.insert(), rows)
        wanted = {"format": FORMAT, "federation": federation}
        wanted["identity"] = identity or facts["identity"]
        for name, value in wanted.items():
            if facts.get(name) != value:
                raise WrongDatabase(
                    f"{self._where}: its {name} is {facts.get(name)}, expected {value}; "
                    "is `database` or `data` of the configuration another coordinator's?"
                )
        return facts["identity"]

    def load(self) -> dict[RunName, RunRecord]:
        """All runs; see `Repository`."""
        with self._transaction() as connection:
            members: dict[RunName, dict[NodeId, Line]] = {}
            epochs: dict[RunName, dict[int, Line]] = {}
            for row in connection.execute(sa.select(_MEMBERS)):
                members.setdefault(RunName(row.run), {})[NodeId(row.node)] = _line(row)
            for row in connection.execute(sa.select(_EPOCHS)):
                epochs.setdefault(RunName(row.run), {})[row.number] = _line(row)
            heads = {RunName(row.run): _line(row) for row in connection.execute(sa.select(_RUNS))}
        self._last = {
            run: record_of(run, head, members.get(run, {}), epochs.get(run, {}))
            for run, head in heads.items()
        }
        return dict(self._last)

    def commit(self, change: Change) -> None:
        """Keep a change; see `Repository`."""
        run, after = change.after.name, change.after
        before = self._last.get(run)
        require_next(run, 0 if before is None else before.revision, change)
        with self._transaction() as connection:
            _write_head(connection, before, after)
            _write_members(connection, before, after)
            for number, line in epoch_lines(after, before).items():
                connection.execute(_EPOCHS.insert(), {"run": run, "number": number, **_row(line)})
            line = entry_line(run, change.entry)
            row = {"run": run, "revision": after.revision, **_row(line)}
            connection.execute(_HISTORY.insert(), row)
        self._last[run] = after

    def history(self, run: RunName) -> list[Entry]:
        """All changes of a run; see `Repository`."""
        chosen = sa.select(_HISTORY).where(_HISTORY.c.run == run).order_by(_HISTORY.c.revision)
        with self._transaction() as connection:
            rows = list(connection.execute(chosen))
        if not rows:
            raise RunNotFound(f"no run of the name {run!r}")
        return [entry_of(run, row.revision, _line(row)) for row in rows]

    def close(self) -> None:
        """Close the connections; the write-ahead log is folded in."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError as error:
            raise Superseded(
                f"{self._where}: a row was there before this coordinator wrote it; another one "
                "uses the same database: stop one"
            ) from error
        except DBAPIError as error:
            raise _translated(error, self._where) from error


def _engine(url: str) -> sa.Engine:
    try:
        engine = sa.create_engine(url)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        raise InvalidInput(
            f"database: not a URL that can be used ({error}); "
            "expected sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    """Our own BEGIN, and durability first; the driver's defaults give neither."""
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_whole(connection: sa.Connection, where: str) -> None:
    if connection.dialect.name != "sqlite":
        return
    found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
    if found != "ok":
        raise DatabaseDamaged(
            f"{where}: damaged ({' '.join(str(found).split())}); restore it from a backup, "
            "nothing was changed"
        )


def _facts(connection: sa.Connection) -> dict[str, str]:
    if not sa.inspect(connection).has_table(_FACTS.name):
        return {}
    return {row.name: row.value for row in connection.execute(sa.select(_FACTS))}


def _write_head(connection: sa.Connection, before: RunRecord | None, after: RunRecord) -> None:
    row = {"revision": after.revision, **_row(head_line(after))}
    if before is None:
        connection.execute(_RUNS.insert(), {"run": after.name, **row})
        return
    stored = sa.and_(_RUNS.c.run == after.name, _RUNS.c.revision == before.revision)
    if connection.execute(_RUNS.update().where(stored).values(row)).rowcount != 1:
        raise Superseded(
            f"run {after.name}: revision {before.revision} is not the stored one any more; "
            "another coordinator uses the same database: stop one"
        )


def _write_members(connection: sa.Connection, before: RunRecord | None, after: RunRecord) -> None:
    lines = member_lines(after, before)
    known = set() if before is None else set(before.members)
    outdated = sorted((known - set(after.members)) | (known & set(lines)))
    for node in outdated:
        stored = sa.and_(_MEMBERS.c.run == after.name, _MEMBERS.c.node == node)
        connection.execute(_MEMBERS.delete().where(stored))
    rows = [{"run": after.name, "node": node, **_row(line)} for node, line in lines.items()]
    if rows:
        connection.execute(_MEMBERS.insert(), rows)


def _row(line: Line) -> Mapping[str, str]:
    return {"text": line.text, "seal": line.seal}


def _line(row: Any) -> Line:
    return Line(text=row.text, seal=row.seal)


def _translated(error: DBAPIError, where: str) -> Exception:
    """Full and damaged are told apart; all else means: stop, and do not guess."""
    cause = error.orig
    name = getattr(cause, "sqlite_errorname", "")
    reason = " ".join(str(cause).split())
    if name == "SQLITE_FULL":
        return DatabaseFull(f"{where}: no space for a change, nothing was changed; make room")
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or (
        isinstance(error, DatabaseError) and "malformed" in reason
    ):
        return DatabaseDamaged(f"{where}: damaged ({reason}); restore it from a backup")
    return StorageFailed(f"{where}: {reason}; the coordinator stops, what is stored is kept")
