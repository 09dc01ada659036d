"""Numbers of bytes as people write them.

>>> byte_size("1.5GiB", "--shard-size")
1610612736
"""

from weft.cli.output import size
from weft.errors import InvalidInput

UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}


def byte_size(text: str, option: str, least: int = 0) -> int:
    """A number and a unit as a number of bytes.

    Args:
        text: as it was typed.
        option: where, for messages.
        least: the smallest number of bytes that is taken.

    Raises:
        InvalidInput: no such text, less than that, or beyond 8 EiB; names the option.
    """
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().lower()
    try:
        count = float(digits) * UNITS[unit]
    except (ValueError, KeyError):
        raise InvalidInput(
            f"{option}: found {text!r}, expected a number and a unit, such as 500MB or 1.5GiB"
        ) from None
    if not least <= count < 2**63:
        expected = f"at least {size(least)}" if count < least else "at most 8 EiB"
        raise InvalidInput(f"{option}: found {text!r}, expected {expected}, such as 1.5GiB")
    return round(count)
