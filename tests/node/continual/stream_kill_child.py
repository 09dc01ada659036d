"""A process that works on streams in forks of itself, each to be killed.

    python -m tests.node.continual.stream_kill_child

See `tests/checkpoints/forks.py` for what it is told and says; PATH is the stream, FOLDER
holds the models. Whoever goes on (RESUME) does what is left of the same work.
"""

import logging
import os
from pathlib import Path

import structlog
import torch

from tests.checkpoints.forks import serve
from tests.node.continual.streams import TINY_SHARD, begun, in_memory, save_tiny
from weft.node.continual.files import STREAM
from weft.node.continual.head import HeadFolder
from weft.node.continual.records import Status
from weft.node.continual.stream import Stream
from weft.node.journal import Journal

REVOKED = "revoked"
"""A file among the models that says who goes out again."""

UNSYNCED = "unsynced"
"""A file among the models that says that nothing is to be synced: a control."""

ACKS = "acks"

GRACE = "WEFT_TEST_GRACE_S"
"""How long a head stays readable once it is not the newest: with none at all a process makes
the same calls whenever it runs."""

HeadFolder.grace_s = float(os.environ.get(GRACE, HeadFolder.grace_s))


def contributions(models: Path) -> list[Path]:
    """All but the base, in their order."""
    found = [path for path in models.iterdir() if path.name not in ("base", REVOKED, UNSYNCED)]
    return sorted(found, key=lambda path: int(path.name[1:]))


def acknowledge(path: Path, digest: str) -> None:
    """As a client remembers it: outside the stream, in one write."""
    acks = os.open(path.parent / ACKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(acks, f"{digest}\n".encode())
    os.close(acks)


def take_all(path: Path, models: Path) -> tuple[str, str]:
    """Begin a stream, add every contribution, revoke some; or what of this is left to do.

    Returns:
        Digests of state and head.
    """
    if not (path / STREAM).exists():
        begun(path, models, shard_bytes=TINY_SHARD)
    with Stream(path) as stream:
        for each in contributions(models):
            receipt = stream.offer(each)
            acknowledge(path, receipt.contribution.digest)
            stream.drain()
        listed = models / REVOKED
        for seq in map(int, listed.read_text().split() if listed.exists() else ()):
            if stream.queue.contribution(seq).status is Status.ABSORBED:
                stream.revoke(seq)
        newest = stream.queue.generation
        return newest.state, newest.head


def quiet() -> None:
    """Say nothing of what a stream does: the standard output is for the forks."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def count_entries(models: Path) -> None:
    """Let a call that touches the disk, and may be the last, stand around each entry."""
    commit = Journal._commit

    def counted(self: Journal, *entry: object) -> None:
        os.utime(models)
        commit(self, *entry)  # type: ignore[arg-type]
        os.utime(models)

    setattr(Journal, commit.__name__, counted)


def work(path: Path, models: Path, resume: bool) -> None:
    """What a fork does with its life."""
    count_entries(models)
    if (models / UNSYNCED).exists():
        os.fsync = lambda fd: None
    take_all(path, models)


def warm_up() -> None:
    """What libraries open when they are first used is nobody's disk: torch dies without it."""
    with in_memory("warm-up") as folder:
        save_tiny(folder / "models", 2)
        take_all(folder / "stream", folder / "models")


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet()
    warm_up()
    serve(work)
