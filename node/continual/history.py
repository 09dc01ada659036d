"""What a stream has come to: the queue that its journal leads to, for whoever only looks."""

from pathlib import Path

from weft.node.continual.errors import NoStream
from weft.node.continual.files import JOURNAL, read_identity
from weft.node.continual.queue import Queue, replayed
from weft.node.journal import Journal


def queue_of(journal: Journal) -> Queue:
    """The queue that a journal leads to."""
    return replayed((record.kind, record.data) for record in journal.entries())


def seen(folder: Path) -> Queue:
    """What became of every contribution, for a look; also while another process works.

    Raises:
        NoStream: there is none, or whoever began it was interrupted.
        JournalCorrupt: its journal is damaged.
        JournalBusy: another process held it for too long; trying again may work.
    """
    identity = read_identity(folder)
    with Journal.open(folder / JOURNAL, identity=identity.whose) as journal:
        queue = queue_of(journal)
    if not queue.generations:
        raise NoStream(f"{folder}: its beginning was interrupted; weft stream add or serve ends it")
    return queue
