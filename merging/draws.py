"""Chance by place: draws that depend on a key, a tensor's name and a place alone.

Whoever cuts a tensor into blocks, and however, draws the same number for the same
element, so nodes that never speak agree on what was dropped. Only Philox's raw words are
used, whose stream numpy guarantees; a word of 64 bits serves four elements.

>>> whole = uniform16(b"digest", "fc.weight", 0, 100)
>>> part = uniform16(b"digest", "fc.weight", 37, 5)
>>> whole[37:42].tolist() == part.tolist()
True

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
    Philox-4x64-10.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 2**16
"""Draws are whole numbers below this; probabilities are multiples of its inverse."""

_DRAWS_A_WORD = 4
_DRAWS_A_COUNT = 16  # a count of Philox gives four words


def uniform16(key: bytes, name: str, offset: int, count: int) -> NDArray[np.uint16]:
    """Uniform draws from 0 .. 65,535 for `count` elements from a place on.

    Args:
        key: of what is drawn for, such as the digest of a contribution.
        name: of the tensor.
        offset: place of the first element in the flat tensor.
        count: how many.

    Returns:
        (count,), uint16.
    """
    step, skipped = divmod(offset, _DRAWS_A_COUNT)
    words = -(-(skipped + count) // _DRAWS_A_WORD)
    counter = np.array([step, 0, 0, 0], dtype=np.uint64)
    raw = np.random.Philox(key=_philox_key(key, name), counter=counter).random_raw(words)
    # Little-endian on every machine: the lowest 16 bits of a word are the first draw.
    draws = np.asarray(raw, dtype="<u8").view("<u2")[skipped : skipped + count]
    return draws.astype(np.uint16, copy=False)


def steps_of(probability: float) -> int:
    """The nearest probability that draws can tell apart, in steps; never none at all.

    Divide by `steps_of(p) / STEPS`, not by p, and the expectation is exact.

    >>> steps_of(0.5), steps_of(0.1), steps_of(1e-9), steps_of(1.0)
    (32768, 6554, 1, 65536)
    """
    return max(1, round(probability * STEPS))


def _philox_key(key: bytes, name: str) -> NDArray[np.uint64]:
    # The length in front: no other pair of key and name makes the same message.
    message = len(key).to_bytes(8, "little") + key + name.encode()
    digest = hashlib.blake2b(message, digest_size=16, person=b"weft.draws").digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
