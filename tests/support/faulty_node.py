"""`weft node`, killed at one journal entry: `faulty_node.py POINT:SEQ CONFIG`

POINT is `before` (the entry is not written), `after` (it is durable, nothing has
happened since) or `within` (its effect is under way). Without POINT:SEQ beyond
the journal's end it is the plain node.
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

WITHIN_S = 0.03


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyJournal:
    """A journal that kills its process at one append."""

    def __init__(self, journal: EntryLog, point: str, seq: int) -> None:
        self._journal, self._point, self._seq = journal, point, seq
        self._next = len(journal.entries()) + 1

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        deadly = self._next == self._seq
        if deadly and self._point == "before":
            die()
        seq = self._journal.append(kind, entry)
        self._next = seq + 1
        if deadly and self._point == "after":
            die()
        if deadly:
            threading.Timer(WITHIN_S, die).start()
        return seq

    def entries(self) -> list[Record]:
        return self._journal.entries()

    def close(self) -> None:
        self._journal.close()


def main() -> None:
    point, _, seq = sys.argv[1].partition(":")

    def journal_of(workspace: Workspace, run: str, me: NodeId) -> EntryLog:
        return DeadlyJournal(open_journal(workspace, run, me), point, int(seq))

    asyncio.run(serve(load_node_config(Path(sys.argv[2])), journal_of=journal_of))


if __name__ == "__main__":
    main()
