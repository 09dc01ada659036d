"""`weft node`, killed once at every journal transition: `faulty_node.py POINT KILLED CONFIG`.

POINT is `before` (the entry is not written), `after` (it is durable, nothing has
happened since) or `within` (its effect is under way). A transition is a kind of
entry with its round or phase; those in the file KILLED were met by an earlier
life and are let through, so that every life gets one transition further.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from weft.node.config import load_node_config
from weft.node.daemon import open_journal, serve
from weft.node.journal import EntryLog, Record
from weft.node.workspace import Workspace
from weft.protocol.run import NodeId

WITHIN_S = 0.005


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyJournal:
    """A journal that kills its process at the first transition not killed at yet."""

    def __init__(self, journal: EntryLog, point: str, killed: Path) -> None:
        self._journal, self._point, self._killed = journal, point, killed

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        deadly = self._is_new(f"{kind} {entry.get('round', entry.get('phase', ''))}")
        if deadly and self._point == "before":
            die()
        seq = self._journal.append(kind, entry)
        if deadly and self._point == "after":
            die()
        if deadly:
            threading.Timer(WITHIN_S, die).start()
        return seq

    def _is_new(self, transition: str) -> bool:
        met = self._killed.read_text().splitlines() if self._killed.exists() else []
        if transition in met:
            return False
        self._killed.write_text("\n".join([*met, transition]))
        return True

    def entries(self) -> list[Record]:
        return self._journal.entries()

    def close(self) -> None:
        self._journal.close()


def main() -> None:
    point, killed, config = sys.argv[1:]

    def journal_of(workspace: Workspace, run: str, me: NodeId) -> EntryLog:
        return DeadlyJournal(open_journal(workspace, run, me), point, Path(killed))

    asyncio.run(serve(load_node_config(Path(config)), journal_of=journal_of))


if __name__ == "__main__":
    main()
