"""Numbers of bytes as people write them.

>>> byte_size("1.5GiB", "--shard-size")
1610612736
"""

from weft.errors import InvalidInput

UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}


def byte_size(text: str, option: str) -> int:
    """A number and a unit as a number of bytes.

    Raises:
        InvalidInput: no such text, or beyond 8 EiB; names the option.
    """
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().lower()
    try:
        count = float(digits) * UNITS[unit]
    except (ValueError, KeyError):
        raise InvalidInput(
            f"{option}: found {text!r}, expected a number and a unit, such as 500MB or 1.5GiB"
        ) from None
    if not 0 <= count < 2**63:
        raise InvalidInput(f"{option}: found {text!r}, expected 0 to 8 EiB")
    return round(count)
