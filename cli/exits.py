"""One table: the family of an error -> the exit code of the command.

A user's mistake prints one line and exits 2; a fault exits 1; an interrupt
exits 130. A file that was named and cannot be used is a mistake, however whole it
is; bytes that contradict themselves are a fault. A traceback is shown only with
`--debug`.

>>> from weft.errors import NotFound
>>> exit_code(NotFound("no such run"))
2
"""

import sys
import traceback
from collections.abc import Callable

from weft.errors import Denied, InvalidInput, Refused, WeftError

SUCCESS = 0
FAULT = 1
MISTAKE = 2
INTERRUPTED = 130

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidInput, MISTAKE),
    (Refused, MISTAKE),
    (Denied, MISTAKE),
    (KeyboardInterrupt, INTERRUPTED),
    (WeftError, FAULT),
    (Exception, FAULT),
)


def exit_code(error: BaseException) -> int:
    """The code of the first family in the table that the error belongs to."""
    return next((code for family, code in EXIT_CODES if isinstance(error, family)), FAULT)


def describe(error: BaseException) -> str:
    """One line for a person, whatever the error; where it ends with a list, that below it.

    An error that weft did not raise on purpose names its class, and how to see
    the traceback.
    """
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    parts = [_joined(lines), *getattr(error, "__notes__", ())]
    text = ", ".join(part for part in parts if part)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, WeftError):
        return text or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{where} (--debug shows the traceback)"
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"


def _joined(lines: list[str]) -> str:
    """A line and the list that it announces stay; anything else becomes one line."""
    first, rest = lines[:1], lines[1:]
    listed = bool(rest) and first[0].endswith(":") and all(line.startswith("  ") for line in rest)
    return "\n".join(lines) if listed else "; ".join(map(str.strip, lines)).replace(":; ", ": ")


def report(error: BaseException, *, debug: bool = False) -> int:
    """Write an error to standard error, one line or its traceback; returns the exit code."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"weft: {describe(error)}\n")
    return exit_code(error)


def run_command(call: Callable[[], int | None], *, debug: bool = False) -> int:
    """Call a command; whatever it raises becomes one line and an exit code.

    Args:
        call: the command. It returns None, or an exit code of its own.
        debug: show the traceback as well.

    Returns:
        The exit code.
    """
    try:
        return call() or SUCCESS
    except (Exception, KeyboardInterrupt) as error:
        return report(error, debug=debug)
