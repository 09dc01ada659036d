"""What stands around a merge that a person runs: signals, memory, what is left, progress."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from weft.cli.output import note

if TYPE_CHECKING:
    from weft.checkpoints.job import MergeJob
    from weft.checkpoints.task_vectors import Meter

__all__ = ["kept", "named", "terminable", "watched"]


@contextmanager
def terminable() -> "Iterator[None]":
    """Whoever ends the process politely (SIGTERM) is obeyed as Ctrl-C is: nothing is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def kept(job: "MergeJob") -> "Iterator[None]":
    """Whoever interrupts a merge that goes on, and can go on again, is told what is left."""
    try:
        yield
    except KeyboardInterrupt:
        left = job.output.with_name(f"{job.output.name}.partial")
        if job.resume and left.exists():
            note(f"{left} is kept: go on with --resume, or remove it")
        raise


@contextmanager
def named(memory: str | None) -> "Iterator[None]":
    """Memory that does not suffice: with the option, and a mistake where it was given."""
    from weft.checkpoints.errors import NotEnoughMemory
    from weft.errors import InvalidInput

    try:
        yield
    except NotEnoughMemory as error:
        if memory is None:
            raise NotEnoughMemory(f"{error} (--memory)", error.needed) from error
        least = -(-error.needed // 2**20)
        raise InvalidInput(
            f"--memory: found {memory!r}, expected at least {least} MiB: {error}"
        ) from error


@contextmanager
def watched(job: "MergeJob") -> "Iterator[Meter]":
    """A meter whose progress is shown."""
    from weft.checkpoints.job import bytes_to_read
    from weft.checkpoints.task_vectors import Meter
    from weft.cli.merge_screen import transfer

    with transfer("merging", bytes_to_read(job)) as advance:
        yield Meter(advance)
