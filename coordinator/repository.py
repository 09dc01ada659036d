"""Where runs outlive the process: one change, one transaction.

    Repository          what the coordinator needs of storage
    MemoryRepository    the twin without a disk: tests, simulations
    (weft.coordinator.database.SqlRepository is the one that is durable)

`commit` is the only method that changes anything. When it returns, the change
is kept whatever happens; when it raises, either nothing was changed, or the
error is `StorageFailed` and nobody may go on.
"""

from dataclasses import dataclass
from typing import Protocol

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
from weft.coordinator.errors import RunNotFound, Superseded
from weft.coordinator.records import Created, Event, RunRecord
from weft.protocol.run import NodeId, RunName


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happened to a run, and the run after it; `at` is wall-clock time."""

    event: Created | Event
    after: RunRecord
    at: float

    @property
    def entry(self) -> Entry:
        """The change as a line of the run's history."""
        return Entry(
            revision=self.after.revision,
            version=self.after.plan.version,
            at=self.at,
            event=self.event,
        )


class Repository(Protocol):
    """Durable runs, each with its history."""

    def load(self) -> dict[RunName, RunRecord]:
        """All runs as they were last committed; blocks."""

    def commit(self, change: Change) -> None:
        """Keep a change: the record and the line of its history, both or neither.

        Blocks until it is on the disk.

        Raises:
            Superseded: the run stored is not the one that the change follows.
            DatabaseFull: no space; nothing was changed.
            StorageFailed: anything else; what is stored is not known.
        """

    def history(self, run: RunName) -> list[Entry]:
        """All changes of a run, oldest first; blocks.

        Raises:
            RunNotFound: no such run.
        """

    def close(self) -> None:
        """Let go of files and connections."""


def require_next(run: RunName, stored: int, change: Change) -> None:
    """A change follows the revision that is stored, or somebody else wrote it.

    Raises:
        Superseded: it does not.
    """
    if change.after.revision != stored + 1:
        raise Superseded(
            f"run {run}: revision {stored} is stored, this coordinator writes "
            f"{change.after.revision}; another coordinator uses the same database: stop one"
        )


@dataclass
class _Stored:
    head: Line
    members: dict[NodeId, Line]
    epochs: dict[int, Line]
    history: dict[int, Line]


class MemoryRepository:
    """Runs in memory, in the very lines that the database holds."""

    def __init__(self) -> None:
        self._runs: dict[RunName, _Stored] = {}
        self._revisions: dict[RunName, int] = {}

    def load(self) -> dict[RunName, RunRecord]:
        """All runs; see `Repository`."""
        return {
            name: record_of(name, stored.head, stored.members, stored.epochs)
            for name, stored in self._runs.items()
        }

    def commit(self, change: Change) -> None:
        """Keep a change; see `Repository`."""
        run, after = change.after.name, change.after
        require_next(run, self._revisions.get(run, 0), change)
        history = {} if run not in self._runs else self._runs[run].history
        self._runs[run] = _Stored(
            head=head_line(after),
            members=member_lines(after, None),
            epochs=epoch_lines(after, None),
            history={**history, after.revision: entry_line(run, change.entry)},
        )
        self._revisions[run] = after.revision

    def history(self, run: RunName) -> list[Entry]:
        """All changes of a run; see `Repository`."""
        if run not in self._runs:
            raise RunNotFound(f"no run of the name {run!r}")
        lines = self._runs[run].history
        return [entry_of(run, revision, lines[revision]) for revision in sorted(lines)]

    def close(self) -> None:
        """Nothing to let go of."""
