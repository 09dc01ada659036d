"""Chance by counters: known words, any round alone, no word used twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.topology.draws import Source, Stream


def test_words_are_the_same_on_every_machine() -> None:
    # Written down once; another numpy or another machine must draw these again.
    words = Source(seed=7, round=3, stream=Stream.SPARSE).words(3)
    assert [int(word) for word in words] == [
        14782732156583515734,
        1079830439501031960,
        11920657935109712163,
    ]


def test_words_are_philox_with_the_documented_key_and_counter() -> None:
    generator = np.random.Philox(
        key=np.array([7, 3], dtype=np.uint64),
        counter=np.array([0, 0, 5, Stream.GRAPH], dtype=np.uint64),
    )
    words = Source(seed=7, round=3, stream=Stream.GRAPH).words(6, attempt=5)
    assert np.array_equal(words, generator.random_raw(6))


def test_more_words_begin_with_the_fewer() -> None:
    source = Source(seed=1, stream=Stream.GRAPH)
    assert np.array_equal(source.words(10)[:4], source.words(4))


@pytest.mark.parametrize(
    "other",
    [
        Source(seed=2, round=3, stream=Stream.SPARSE),
        Source(seed=1, round=4, stream=Stream.SPARSE),
        Source(seed=1, round=3, stream=Stream.COUNTS),
    ],
)
def test_another_place_gives_other_words(other: Source) -> None:
    words = Source(seed=1, round=3, stream=Stream.SPARSE).words(50)
    assert not set(words.tolist()) & set(other.words(50).tolist())
    assert not set(words.tolist()) & set(
        Source(seed=1, round=3, stream=Stream.SPARSE).words(50, attempt=1).tolist()
    )


def test_seeds_beyond_a_word_count_modulo() -> None:
    small, large = (Source(seed=s, stream=Stream.GRAPH).words(2) for s in (5, 2**64 + 5))
    assert np.array_equal(small, large)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 10**6))
def test_permutations_hold_each_once(count: int, seed: int) -> None:
    order = Source(seed=seed, stream=Stream.MATCHING).permutation(count)
    assert sorted(order.tolist()) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.data(), st.integers(0, 10**6))
def test_distinct_numbers_are_distinct_and_below(
    limit: int, data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(0, limit))
    drawn = Source(seed=seed, stream=Stream.GRAPH).distinct(limit, count)
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert all(0 <= number < limit for number in drawn)


def test_fractions_are_uniform() -> None:
    drawn = Source(seed=3, stream=Stream.PROBES).fractions(20_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    shares = np.histogram(drawn, bins=10, range=(0, 1))[0] / 20_000
    assert np.abs(shares - 0.1).max() < 0.01


def split_mix(state: int) -> int:
    """SplitMix64's output function, in Python's whole numbers."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def test_the_reference_of_split_mix_gives_the_published_numbers() -> None:
    golden = 0x9E3779B97F4A7C15
    found = [split_mix((1234567 + golden * count) % 2**64) for count in (1, 2, 3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_fractions_of_keys_are_split_mix_from_a_word_of_their_place() -> None:
    source = Source(seed=3, round=9, stream=Stream.LOSSES)
    start, golden = int(source.words(1)[0]), 0x9E3779B97F4A7C15
    keys = [0, 1, 7, 10**10]
    expected = [(split_mix((start + golden * (key + 1)) % 2**64) >> 11) / 2**53 for key in keys]
    assert source.fractions_of(np.array(keys)).tolist() == expected


def test_a_key_s_fraction_does_not_hang_on_the_others() -> None:
    source = Source(seed=3, stream=Stream.LOSSES)
    together = source.fractions_of(np.arange(20_000))
    assert source.fractions_of(np.array([17, 4]))[0] == together[17]
    shares = np.histogram(together, bins=10, range=(0, 1))[0] / 20_000
    assert np.abs(shares - 0.1).max() < 0.01
