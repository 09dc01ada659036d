"""Every merge method by name; the table itself is `table.py`.

Nothing is imported before a method is asked for, so listing them costs nothing.

>>> create("mean", bound=8192.0)
Mean(bound=8192.0)
"""

import difflib
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from weft.merging.errors import BadOption, UnknownMethod
from weft.merging.table import TABLE, Entry, Kind

if TYPE_CHECKING:
    from weft.merging.method import Method

__all__ = ["TABLE", "Entry", "Kind", "Registry", "create", "entry", "names", "no_option"]


class Registry:
    """A table of methods, looked up by name."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> Entry:
        """The method of that name.

        Raises:
            UnknownMethod: there is none; names the nearest one.
        """
        found = self._entries.get(name)
        if found is None:
            raise UnknownMethod(f"no merge method is called {name!r}{_hint(name, self.names())}")
        return found

    def create(self, name: str, **options: object) -> "Method":
        """A method with its hyperparameters; what is not given has its default.

        Raises:
            UnknownMethod: no such method.
            BadOption: no such hyperparameter, or not with this value.
        """
        method = self.entry(name).load()
        known = list(inspect.signature(method).parameters)
        for option in options:
            if option not in known:
                raise no_option(name, option, known)
        return method(**options)


def no_option(name: str, option: str, known: list[str]) -> BadOption:
    """That a method has no such hyperparameter; names the nearest one."""
    return BadOption(f"method {name!r} has no option {option!r}{_hint(option, known)}")


def _hint(wrong: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(wrong, known, n=1)
    meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{meant} (known: {', '.join(known) or 'none'})"


_REGISTRY = Registry(TABLE)


def names() -> list[str]:
    """The names of all methods, sorted."""
    return _REGISTRY.names()


def entry(name: str) -> Entry:
    """The table's line for a method; see `Registry.entry`."""
    return _REGISTRY.entry(name)


def create(name: str, **options: object) -> "Method":
    """A method with its hyperparameters; see `Registry.create`."""
    return _REGISTRY.create(name, **options)
