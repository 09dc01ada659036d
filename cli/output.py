"""What commands print: one document as JSON, or something for a person.

With `--json` standard output holds one document and nothing else; progress and
errors go to standard error. rich is imported when something is drawn, never
before.
"""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
T = TypeVar("T")

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.")
]
"""The type of every command's `--json`: `as_json: JsonFlag = False`."""

WIDTH_ELSEWHERE = 160
LINE_EVERY_S = 10.0


def plain(value: object) -> Json:
    """The value as JSON knows it.

    Dataclasses and mappings become objects, sequences and sets lists (sets
    sorted), paths and enums strings; a number that is not finite becomes null.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return str(value)
    return _plain_container(value)


def _plain_container(value: object) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def emit(
    document: T, json_output: bool, render: "Callable[[T], RenderableType | str] | None" = None
) -> None:
    """Print a document on standard output.

    Args:
        document: what the command found out.
        json_output: print it as JSON.
        render: what a person gets instead: a string or something rich draws.
            Without it a person gets the JSON as well.
    """
    if json_output or render is None:
        text = json.dumps(plain(document), indent=2, ensure_ascii=False)
        sys.stdout.write(f"{_writable(text)}\n")
        return
    drawn = render(document)
    if isinstance(drawn, str):
        drawn = _writable(drawn)
        sys.stdout.write(drawn if drawn.endswith("\n") else f"{drawn}\n")
    else:
        console().print(drawn)


def _writable(text: str) -> str:
    """The text as UTF-8 can hold it: bytes of a file's name that are no text are escaped.

    The escape is JSON's own: whoever reads the document has the name again.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def console(*, stderr: bool = False) -> "Console":
    """A rich console; wide enough not to cut tables where it is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else WIDTH_ELSEWHERE)


def note(text: str) -> None:
    """A line for a person on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """Progress of long work: a bar on a terminal, a line now and then elsewhere.

    Args:
        what: the work, in a few words.
        total: how much there is, in any unit.

    Yields:
        A function to call with how much more is done.
    """
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(console=console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda more: bar.update(task, advance=more)
        return
    yield _lines(what, total)


def _lines(what: str, total: float) -> Callable[[float], None]:
    done, said_at = 0.0, time.monotonic()

    def advance(more: float) -> None:
        nonlocal done, said_at
        done += more
        now = time.monotonic()
        if now - said_at >= LINE_EVERY_S:
            said_at = now
            note(f"{what}: {100 * done / total if total else 100:.0f} %")

    return advance


def size(count: float) -> str:
    """Bytes for a person: `size(1536)` is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
