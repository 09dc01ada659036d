"""Progress of work that reads much: bytes, bytes a second, time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weft.cli.output import console, progress


@contextmanager
def transfer(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with bytes a second on a terminal, a line now and then elsewhere.

    Args:
        what: the work, in a word.
        total: bytes to come.

    Yields:
        A function to call with how many bytes more are done.
    """
    if not sys.stderr.isatty():
        with progress(what, total) as advance:
            yield advance
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)
