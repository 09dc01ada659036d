"""What the commands of a stream share: its folder, opened, and what is said of its head."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from weft.node.continual.queue import Queue
    from weft.node.continual.stream import Stream

Threads = Annotated[int, typer.Option(min=0, help="Workers; 0: one a core.")]
Memory = Annotated[
    str | None,
    typer.Option(help="The most that work under way may take, such as 4GiB; a quarter of it all."),
]


def opened(folder: Path, threads: int, memory: str | None, instead: str) -> "Stream":
    """A stream to work on.

    Args:
        folder: of the stream.
        threads: workers; 0: one a core.
        memory: what they may fill, in words.
        instead: the command for the same where a server holds the folder, without `--to`.

    Raises:
        FolderInUse: another process works on it; says what to do if that serves it.
        WeftError: as `Stream`.
    """
    import os

    from weft.cli.merge import memory_allowed
    from weft.node.continual.stream import Stream
    from weft.node.errors import FolderInUse
    from weft.protocol.logs import configure_logs

    configure_logs("error")
    allowed = memory_allowed(memory)
    try:
        return Stream(folder, threads=threads or os.cpu_count() or 1, memory_bytes=allowed)
    except FolderInUse as error:
        asking = f"{instead} --to HOST:PORT --credentials FOLDER"
        raise FolderInUse(f"{error}; if that serves the stream, ask it: {asking}") from error


def head_of(folder: Path, queue: "Queue") -> dict[str, object]:
    """The document about the head of a stream in a folder."""
    newest = queue.generation
    return {
        "path": (folder / "head").absolute(),
        "digest": newest.head,
        "generation": newest.number,
        "contributions": len(newest.members),
        "waiting": len(queue.waiting),
        "scale": newest.scale,
        "norm": newest.norm,
        "score": newest.score,
        "warnings": newest.warnings,
    }


def head_text(head: dict[str, object]) -> str:
    """The same for a person."""
    waiting = f", {head['waiting']} waiting" if head["waiting"] else ""
    return (
        f"{head['path']}\n"
        f"generation {head['generation']}, {head['contributions']} contributions{waiting}\n"
        f"digest {head['digest']}"
    )
