"""Checks of hyperparameters, for the `__post_init__` of methods and fields."""

import math
import sys

from weft.merging.errors import BadOption


def require_number(method: object, option: str) -> float:
    """The option's value, if it is a finite number; true and false are not."""
    value = getattr(method, option)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:
        raise BadOption(_found(method, option, "a finite number"))
    return float(value)


def require_fraction(method: object, option: str) -> None:
    """0 < value <= 1."""
    if not 0 < require_number(method, option) <= 1:
        raise BadOption(_found(method, option, "a number above 0 and at most 1"))


def require_bound(method: object, option: str) -> None:
    """A power of two that an exact sum can take as its bound."""
    value = require_number(method, option)
    if not 2.0**-400 <= value <= 2.0**400 or math.frexp(value)[0] != 0.5:
        raise BadOption(_found(method, option, "a power of two, such as 4096"))


def _found(method: object, option: str, expected: str) -> str:
    value = getattr(method, option)
    return f"{type(method).__name__}: {option} is {value!r}, expected {expected}"
