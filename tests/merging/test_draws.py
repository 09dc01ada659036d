"""Chance by place: Philox written out once more, known draws, any cut, no favourites."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.merging.draws import STEPS, steps_of, uniform16

WORD = 2**64


def philox(key: tuple[int, int], counter: int) -> list[int]:
    """Philox-4x64-10 from the paper, in whole numbers: four words."""
    k0, k1 = key
    x = [counter % WORD, counter >> 64, 0, 0]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(second >> 64) ^ x[1] ^ k0, second % WORD, (first >> 64) ^ x[3] ^ k1, first % WORD]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
    return x


def draws_of_a_step(key: bytes, name: str, step: int) -> list[int]:
    message = len(key).to_bytes(8, "little") + key + name.encode()
    digest = hashlib.blake2b(message, digest_size=16, person=b"weft.draws").digest()
    halves = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    # numpy counts up before it draws.
    words = philox(halves, step + 1)
    return [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)]


@pytest.mark.parametrize("step", [0, 1, 7, 2**36, 2**58])
def test_draws_are_philox_with_the_documented_key_and_counter(step: int) -> None:
    found = uniform16(b"content", "fc.weight", 16 * step, 16)
    assert found.tolist() == draws_of_a_step(b"content", "fc.weight", step)


def test_draws_are_the_same_on_every_machine() -> None:
    # Written down once; another numpy or another machine must draw these again.
    first = uniform16(b"content", "fc.weight", 0, 8)
    assert first.tolist() == [49726, 4372, 46350, 62233, 34943, 63318, 2727, 26977]
    assert uniform16(b"content", "fc.weight", 2**40 + 5, 3).tolist() == [36350, 10026, 27186]
    assert uniform16(b"", "", 0, 2).tolist() == [18680, 35320]
    assert first.dtype == np.uint16


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, 70), count=st.integers(0, 70), start=st.sampled_from([0, 3, 2**33]))
def test_any_cut_gives_the_same_draws(offset: int, count: int, start: int) -> None:
    whole = uniform16(b"k", "w", start, 150)
    part = uniform16(b"k", "w", start + offset, count)
    assert part.shape == (count,)
    assert np.array_equal(whole[offset : offset + count], part)


def test_draws_are_uniform() -> None:
    drawn = uniform16(b"uniform", "w", 5, 2**20)
    for shift in (0, 8):  # the low byte and the high one
        counts = np.bincount(drawn >> shift & 0xFF, minlength=256)
        squares = ((counts - 4096.0) ** 2 / 4096.0).sum()
        # 255 degrees of freedom: 255 +- 5 * 22.6.
        assert 142 < squares < 368
    # Neighbours, also across the words of a step, have nothing to do with each other.
    centred = drawn.astype(np.float64) - 32767.5
    for lag in (1, 4, 16):
        product = (centred[:-lag] * centred[lag:]).mean() / (2**32 / 12)
        assert abs(product) < 5 / 2**10


@pytest.mark.parametrize(
    ("key", "name"),
    [(b"another", "w"), (b"key", "v"), (b"", "keyw"), (b"keyw", ""), (b"ke", "yw")],
)
def test_another_key_or_name_gives_independent_draws(key: bytes, name: str) -> None:
    one = uniform16(b"key", "w", 0, 2**16).astype(np.float64) - 32767.5
    two = uniform16(key, name, 0, 2**16).astype(np.float64) - 32767.5
    assert abs((one * two).mean() / (2**32 / 12)) < 5 / 2**8
    assert (one == two).sum() < 12  # one is expected


def test_probabilities_are_rounded_and_never_to_none() -> None:
    assert [steps_of(p) for p in (0.25, 0.3, 1e-12, 1.0)] == [16384, 19661, 1, STEPS]
