"""Hyperparameters: declared once, with default, meaning and range; checked when built.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Ties(Fold):
        density: float = option(0.2, "share of each task vector that is kept", above=0, most=1)

The field's annotation says the type: `float` takes whole numbers too, `int` and `bool`
just what they say, `str` one of `choices`, or a regular expression.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from weft.merging.errors import BadOption
from weft.merging.table import name_of

_KEY = "option"

GRID = "values are rounded to bound * 2^-51; lower it for tensors on a small scale"
"""What a bound of exact sums does to small values, in its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What may be given for one hyperparameter."""

    about: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    power_of_two: bool = False
    pattern: bool = False

    @property
    def range(self) -> str:
        """The allowed values in words; empty where all are allowed."""
        if self.choices:
            return " or ".join(map(repr, self.choices))
        if self.power_of_two:
            return "a power of two, such as 4096"
        if self.pattern:
            return "a regular expression"
        ends = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        words = [f"{word} {end:g}" for word, end in ends.items() if end is not None]
        return f"a number {' and '.join(words)}" if words else ""

    def admits(self, value: object) -> bool:
        """Whether a value of the right type lies in the range."""
        if isinstance(value, str):
            fits = not self.choices or value in self.choices
            return fits and not (self.pattern and _fault_of(value))
        if not isinstance(value, int | float) or isinstance(value, bool):
            return True
        if self.power_of_two and (
            not 2.0**-400 <= value <= 2.0**400 or math.frexp(value)[0] != 0.5
        ):
            return False
        return not (
            (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )


def option(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    power_of_two: bool = False,
    pattern: bool = False,
) -> Any:
    """A dataclass field that says what may be given for it.

    A power of two is the bound of an exact sum, and its text says what that costs.
    """
    said = Option(
        about=f"{about}; {GRID}" if power_of_two else about,
        least=least,
        most=most,
        above=above,
        below=below,
        choices=choices,
        power_of_two=power_of_two,
        pattern=pattern,
    )
    return field(default=default, metadata={_KEY: said})


def options_of(method: object) -> Iterator[tuple[str, str, object, Option]]:
    """Name, type, default and meaning of each hyperparameter of a method or its class."""
    for each in fields(method):  # type: ignore[arg-type]
        kind = each.type if isinstance(each.type, str) else each.type.__name__
        if _KEY in each.metadata:
            yield each.name, kind, each.default, each.metadata[_KEY]


def check_options(method: object) -> None:
    """Refuse what is of the wrong type or out of range.

    Raises:
        BadOption: says what was found, where, and what is expected.
    """
    for name, kind, _, said in options_of(method):
        value = getattr(method, name)
        if not _is_a(value, kind):
            raise BadOption(_found(method, name, said.range or _TYPES[kind]))
        if not said.admits(value):
            fault = f" ({_fault_of(str(value))})" if said.pattern else ""
            raise BadOption(f"{_found(method, name, said.range)}{fault}")


def _fault_of(pattern: str) -> str:
    """What is wrong with a regular expression; empty where it is one."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


_TYPES = {
    "float": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
}


def _is_a(value: object, kind: str) -> bool:
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if not isinstance(value, int | float if kind == "float" else int):
        return False
    return abs(value) <= sys.float_info.max


def require_bound(method: object, name: str) -> None:
    """A power of two that an exact sum can take as its bound."""
    said = Option(about="", power_of_two=True)
    value = getattr(method, name)
    if not _is_a(value, "float") or not said.admits(value):
        raise BadOption(_found(method, name, said.range))


def _found(method: object, name: str, expected: str) -> str:
    value = getattr(method, name)
    return f"{name_of(method)}: {name} is {value!r}, expected {expected}"
