"""The life of a download as transcripts: events in, steps out, no socket and no clock."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wire import manifest_of
from weft.checkpoints.digest import CHUNK_BYTES
from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    NotFound,
    Refused,
    Stalled,
    Unavailable,
    WeftError,
)
from weft.protocol.limits import RANGES
from weft.protocol.transfer import (
    AskChunks,
    AskManifest,
    Complete,
    Download,
    GiveUp,
    Wait,
    indices_of,
    pause_s,
    ranges_of,
)

MANIFEST = manifest_of({"a": 2 * CHUNK_BYTES + 4, "b": 8})


def begun(*holders: str, progress_s: float = 10.0) -> Download:
    """A download whose manifest came from the first holder, all four chunks missing."""
    download = Download("d" * 64, list(holders), progress_s=progress_s)
    download.manifest_came(holders[0], MANIFEST)
    download.want(range(4))
    return download


# -- the steps ---------------------------------------------------------------


def test_a_quiet_life() -> None:
    download = Download("d" * 64, ["a", "b"], progress_s=10)
    assert download.next(0) == AskManifest("a", 10)
    download.manifest_came("a", MANIFEST)
    download.want([0, 1, 3])
    assert download.next(1) == AskChunks("a", 10, ((0, 2), (3, 4)))
    download.stored("a", [0, 1])
    assert download.next(2) == AskChunks("a", 10, ((3, 4),))
    download.stored("a", [3])
    assert download.next(3) == Complete()


def test_nothing_missing_is_complete() -> None:
    download = Download("d" * 64, ["a"], progress_s=10)
    download.manifest_came("a", MANIFEST)
    download.want([])
    assert download.next(0) == Complete()


def test_a_cut_goes_on_where_it_was() -> None:
    download = begun("a")
    download.stored("a", [0, 1])
    download.failed("a", Unavailable("cut"), now=5.0, chance=0.0)
    assert download.next(5.0) == Wait(5.0 + pause_s(1, 0.0))
    assert download.next(5.5) == AskChunks("a", 9.5, ((2, 4),))


def test_others_are_asked_before_a_pause_is_over() -> None:
    download = begun("a", "b", "c")
    download.failed("a", Unavailable("away"), now=0.0)
    assert download.next(0.0) == AskChunks("b", 10, ((0, 4),))
    download.failed("b", Unavailable("away"), now=0.0)
    assert download.next(0.0) == AskChunks("c", 10, ((0, 4),))


def test_who_does_well_is_kept() -> None:
    download = begun("a", "b")
    download.failed("a", Unavailable("away"), now=0.0)
    download.stored("b", [0])
    assert download.next(60.0) == AskChunks("b", 10, ((1, 4),))


def test_a_holder_has_the_progress_deadline_to_come_back() -> None:
    download = begun("a")
    download.failed("a", Unavailable("away"), now=0.0)
    download.failed("a", Unavailable("away"), now=9.9)
    assert isinstance(download.next(9.9), Wait)
    download.failed("a", Unavailable("away"), now=10.0)
    assert isinstance(download.next(10.0), GiveUp)


def test_progress_starts_the_deadline_again() -> None:
    download = begun("a")
    download.failed("a", Unavailable("away"), now=0.0)
    download.stored("a", [0])
    download.failed("a", Unavailable("away"), now=11.0)
    assert isinstance(download.next(11.0), Wait)


def test_patience_is_what_is_left_of_the_deadline() -> None:
    download = begun("a")
    download.failed("a", Unavailable("away"), now=0.0)
    assert download.next(7.0) == AskChunks("a", 3.0, ((0, 4),))
    assert download.next(9.5) == AskChunks("a", 1.0, ((0, 4),))


@pytest.mark.parametrize(
    "error", [Stalled("s"), Corrupt("c"), Denied("d"), NotFound("n"), Refused("r"), WeftError("w")]
)
def test_what_asking_again_cannot_mend_drops_the_holder(error: WeftError) -> None:
    download = begun("a", "b")
    download.failed("a", error, now=0.0)
    assert download.next(1000.0) == AskChunks("b", 10, ((0, 4),))
    download.failed("b", error, now=1000.0)
    assert isinstance(download.next(2000.0), GiveUp)


@pytest.mark.parametrize(
    ("errors", "family"),
    [
        ([], Unavailable),
        ([Stalled("s"), NotFound("n")], Stalled),
        ([NotFound("n"), Unavailable("u")], Unavailable),
        ([Exhausted("e"), NotFound("n")], Unavailable),
        ([Corrupt("c"), NotFound("n")], Corrupt),
        ([NotFound("n"), Denied("d")], Denied),
        ([NotFound("n"), NotFound("n")], NotFound),
        ([Refused("r")], Refused),
    ],
)
def test_the_verdict_is_mendable_if_any_failure_was(
    errors: list[WeftError], family: type[WeftError]
) -> None:
    names = [f"h{i}" for i in range(len(errors))]
    download = Download("d" * 64, names, progress_s=10)
    for _ in range(2):  # the second time the deadline has passed
        for now, (name, error) in enumerate(zip(names, errors, strict=True)):
            download.failed(name, error, now=now * 100.0)
            download.failed(name, error, now=now * 100.0 + 50)
    step = download.next(1e6)
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, family)
    for name, error in zip(names, errors, strict=True):
        assert f"{name}: {error}" in str(step.error)


def test_requests_are_bounded() -> None:
    download = Download("d" * 64, ["a"], progress_s=10)
    download.manifest_came("a", MANIFEST)
    download.want(range(0, 4 * RANGES, 2))
    step = download.next(0)
    assert isinstance(step, AskChunks)
    assert len(step.ranges) == RANGES


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_ceiling_and_are_jittered(failures: int, chance: float) -> None:
    ceiling = min(5.0, 0.2 * 2 ** (failures - 1))
    assert ceiling / 2 <= pause_s(failures, chance) <= ceiling


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_it_ends_and_asks_for_no_stored_chunk(data: st.DataObject) -> None:
    """Random holders do random things; the download completes or gives up in bounded time."""
    names = data.draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
    download = begun(*names, progress_s=10)
    stored: set[int] = set()
    now = 0.0
    for _ in range(200):
        match download.next(now):
            case Complete():
                assert stored == {0, 1, 2, 3}
                return
            case GiveUp():
                return
            case Wait(until):
                assert until > now
                now = until
            case AskChunks(holder, patience_s, ranges):
                assert 0 < patience_s <= 10
                asked = list(indices_of(ranges))
                assert asked == sorted(set(range(4)) - stored)
                came = asked[: data.draw(st.integers(0, len(asked)))]
                download.stored(holder, came)
                stored |= set(came)
                now += data.draw(st.sampled_from([0.0, 0.5, 3.0]))
                if len(came) < len(asked):
                    error = data.draw(st.sampled_from([Unavailable("u"), Stalled("s")]))
                    download.failed(holder, error, now)
            case step:
                pytest.fail(f"unexpected {step}")
    pytest.fail("no end")


# -- ranges ------------------------------------------------------------------


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_exactly_the_indices(indices: set[int]) -> None:
    ranges = list(ranges_of(indices))
    assert list(indices_of(ranges)) == sorted(indices)
    assert all(start < stop for start, stop in ranges)
    assert all(left[1] < right[0] for left, right in pairwise(ranges))
