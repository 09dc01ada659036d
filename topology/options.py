"""Options by name: from the pairs of a run's section to a frozen dataclass.

A graph and a schedule are dataclasses whose fields are their options; this is
the one place that turns written options into fields, and complains about them.
"""

import dataclasses
from collections.abc import Iterable
from typing import TypeAlias, TypeVar

from weft.topology.errors import BadOption, unknown

Scalar: TypeAlias = bool | int | float | str
T = TypeVar("T")


def with_options(kind: str, of: type[T], options: Iterable[tuple[str, Scalar]]) -> T:
    """Build a dataclass from written options.

    Args:
        kind: what the options belong to, for messages: "graph ring".
        of: a dataclass whose fields are bool, int, float or str.
        options: names and values; a whole number will do where a float is meant.

    Raises:
        BadOption: an unknown name (the nearest is named), a value of another
            type, or one that the dataclass refuses.
    """
    fields = {field.name: field.type for field in dataclasses.fields(of)}  # type: ignore[arg-type]
    values: dict[str, Scalar] = {}
    for name, value in options:
        if name not in fields:
            raise BadOption(f"{kind}: {unknown('option', name, fields)}")
        values[name] = _typed(f"{kind}: option {name}", fields[name], value)
    try:
        return of(**values)
    except BadOption as error:
        raise BadOption(f"{kind}: {error}") from None


def _typed(where: str, wanted: object, value: Scalar) -> Scalar:
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        name = getattr(wanted, "__name__", str(wanted))
        raise BadOption(f"{where}: found {value!r}, expected {name}")
    return value


def require(holds: bool, name: str, found: Scalar, expected: str) -> None:
    """Refuse an option's value, in a dataclass's `__post_init__`."""
    if not holds:
        raise BadOption(f"option {name}: found {found!r}, expected {expected}")
