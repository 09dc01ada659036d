"""`weft stream head`, `history`, `rollback` and `revoke`: of a folder, or of a server's stream."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from weft.cli.output import JsonFlag, emit, note
from weft.cli.push import DEFAULT_NAME, Name, Seconds
from weft.cli.stream_folder import Memory, Threads, head_of, head_text, opened
from weft.cli.stream_served import Credentials, Served, To, place_of
from weft.errors import InvalidInput

Folder = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="The stream's folder; or give --to.")
]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="DIR", help="The stream's folder; or give --to."),
]
"""Before another argument: of any number, so that there may be none."""

Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw norms, overlap and score there.")
]
Number = Annotated[int, typer.Argument(min=0, metavar="GENERATION", help="The one to go back to.")]
Which = Annotated[
    str,
    typer.Argument(
        metavar="WHICH", help="Its number, its name, or the first eight digits of its digest."
    ),
]


def head(
    folder: Folder = None,
    to: To = None,
    credentials: Credentials = None,
    name: Name = DEFAULT_NAME,
    as_json: JsonFlag = False,
) -> None:
    """Where the merged model is, and what is in it; also while a server works."""
    from weft.node.continual.history import seen

    place = place_of([] if folder is None else [folder], to, credentials, name)
    found = place.head() if isinstance(place, Served) else head_of(place, seen(place))
    emit(found, as_json, head_text)


def history(
    folder: Folder = None,
    plot: Plot = None,
    to: To = None,
    credentials: Credentials = None,
    name: Name = DEFAULT_NAME,
    as_json: JsonFlag = False,
) -> None:
    """Every contribution that came and what became of it, every generation and its cause."""
    from weft.cli.stream_history import document, drawn, table
    from weft.node.continual.history import seen

    place = place_of([] if folder is None else [folder], to, credentials, name)
    known = place.history() if isinstance(place, Served) else seen(place)
    if plot is not None:
        drawn(known, plot)
        note(f"{plot}: drawn")
    emit(document(known), as_json, lambda _: table(known))


def rollback(
    *,
    folders: Folders = None,
    generation: Number,
    to: To = None,
    credentials: Credentials = None,
    name: Name = DEFAULT_NAME,
    patience: Seconds = 120.0,
    threads: Threads = 0,
    memory: Memory = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the head what it was in an earlier generation; what came since goes out."""
    place = place_of(folders or [], to, credentials, name)
    if isinstance(place, Served):
        _require_unset(threads, memory)
        found = place.rollback(generation, patience)
    else:
        with opened(place, threads, memory, f"weft stream rollback {generation}") as stream:
            stream.rollback(generation)
            found = head_of(place, stream.queue)
    emit(found, as_json, head_text)


def revoke(
    *,
    folders: Folders = None,
    which: Which,
    to: To = None,
    credentials: Credentials = None,
    name: Name = DEFAULT_NAME,
    patience: Seconds = 120.0,
    threads: Threads = 0,
    memory: Memory = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a contribution out, as if it had never come: to the byte."""
    place = place_of(folders or [], to, credentials, name)
    if isinstance(place, Served):
        _require_unset(threads, memory)
        found = place.revoke(which, patience)
    else:
        instead = f"weft stream revoke {shlex.quote(which)}"
        with opened(place, threads, memory, instead) as stream:
            stream.revoke(stream.queue.find(which).seq)
            found = head_of(place, stream.queue)
    emit(found, as_json, head_text)


def register(app: typer.Typer) -> None:
    """Add the commands to `weft stream`."""
    app.command("head", epilog="Example: weft stream head merged --json")(head)
    app.command("history", epilog="Example: weft stream history merged --plot history.png")(history)
    app.command("rollback", epilog="Example: weft stream rollback merged 12")(rollback)
    app.command("revoke", epilog="Example: weft stream revoke 3 --to host:7440")(revoke)


def _require_unset(threads: int, memory: str | None) -> None:
    """How a served stream works is its server's to say."""
    if threads or memory is not None:
        raise InvalidInput("--threads and --memory are for a folder; a server has its own")
