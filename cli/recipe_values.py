"""Values of a recipe's file, taken with a word on what was found and what was expected.

A file of somebody else's may hold anything, also one list a million times (an alias of
YAML): what is shown of a value is bounded.
"""

import difflib
import math
import reprlib
from collections.abc import Collection, Mapping, Sequence

from weft.errors import InvalidInput


class BadRecipe(InvalidInput):
    """A recipe that cannot be followed; one line with the key and what was expected."""


def show(value: object) -> str:
    """A value for a message, in a few dozen characters whatever it is."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = 60
    brief.maxlevel = 2
    return brief.repr(value)


def wrong(where: str, value: object, expected: str) -> BadRecipe:
    """The error of a key whose value will not do."""
    return BadRecipe(f"{where}: found {show(value)}, expected {expected}")


def table(value: object, where: str) -> Mapping[str, object]:
    """A table with texts as keys; nothing at all is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(where, value, "keys with values")
    for key in value:
        if not isinstance(key, str):
            raise wrong(where, key, "a text as key")
    return value


def keys(value: object, where: str, known: Collection[str]) -> Mapping[str, object]:
    """A table that has no other keys than these."""
    found = table(value, where)
    for key in found:
        if key not in known:
            raise BadRecipe(f"{where}: unknown key {show(key)}{nearest(key, known)}")
    return found


def nearest(wrong_name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?`, or all that there are."""
    near = difflib.get_close_matches(wrong_name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; expected {' or '.join(known)}"


def rows(value: object, where: str) -> Sequence[object]:
    """A list; nothing at all is an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong(where, value, "a list")
    return value


def text(value: object, where: str, expected: str = "a text") -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise wrong(where, value, expected)
    return value.strip()


def is_number(value: object) -> bool:
    """Whether `number` would take it; YAML reads `1e-5` as a text, and we as a number."""
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return False
    return isinstance(value, int | float) and abs(value) < math.inf


def number(value: object, where: str) -> float:
    """A finite number."""
    if not is_number(value):
        raise wrong(where, value, "a number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise wrong(where, value, "a number below 1e308") from None


def flag(value: object, where: str) -> bool:
    """True or false; 0 and 1 will do."""
    if value in (0, 1) and isinstance(value, bool | int | float):
        return bool(value)
    raise wrong(where, value, "true or false")


def layer_range(value: object, where: str) -> tuple[int, int]:
    """Two whole numbers: the first layer, and the one after the last."""
    ends = value if isinstance(value, list) else []
    whole = [end for end in ends if isinstance(end, int) and not isinstance(end, bool)]
    if len(ends) != 2 or len(whole) != 2 or not 0 <= whole[0] < whole[1]:
        raise wrong(where, value, "[first, stop], layers from 0, the last one left out")
    return whole[0], whole[1]
