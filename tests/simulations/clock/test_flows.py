"""Max-min fairness: nobody exceeds a bound, and whoever has less has a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.simulations.clock.flows import Network, fair_rates

NODES = 5
CAPACITY = st.one_of(st.floats(0.1, 10.0), st.just(float("inf")))
TRANSFERS = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),
        st.integers(0, NODES - 1),
        st.one_of(CAPACITY, st.just(0.0)),
    ),
    max_size=12,
)
WAYS = st.lists(CAPACITY, min_size=NODES, max_size=NODES).map(np.array)


@settings(deadline=None)
@given(TRANSFERS, WAYS, WAYS)
def test_rates_keep_to_the_bounds_and_each_transfer_has_a_bottleneck(
    transfers: list[tuple[int, int, float]], up: np.ndarray, down: np.ndarray
) -> None:
    senders = np.array([one[0] for one in transfers], dtype=np.int32)
    receivers = np.array([one[1] for one in transfers], dtype=np.int32)
    limits = np.array([one[2] for one in transfers], dtype=np.float64)
    rates = fair_rates(senders, receivers, limits, up, down)
    assert (rates <= limits).all()
    for place, rate in enumerate(rates):
        bounds = [(limits[place], rate, rate)]
        for ends, ways in ((senders, up), (receivers, down)):
            mine = rates[ends == ends[place]]
            assert mine.sum() <= ways[ends[place]] * (1 + 1e-9)
            bounds.append((ways[ends[place]], mine.sum(), mine.max()))
        assert any(
            used == pytest.approx(bound) and rate == pytest.approx(most)
            for bound, used, most in bounds
        ), "a way that is full, on which nobody has more; or its own limit"


def test_what_a_slow_receiver_leaves_goes_to_the_others() -> None:
    senders, receivers = np.zeros(3, dtype=np.int32), np.array([1, 2, 3], dtype=np.int32)
    down = np.array([np.inf, 1.0, 100.0, 100.0])
    rates = fair_rates(senders, receivers, np.full(3, np.inf), np.full(4, 11.0), down)
    assert rates.tolist() == [1.0, 5.0, 5.0]


def network(up: float = 10.0) -> Network:
    return Network(np.full(3, up), np.full(3, np.inf))


def run(found: Network, ends: dict[str, float]) -> None:
    """Let time pass until nothing moves."""
    now = 0.0
    found.settle(now)
    while np.isfinite(found.next_end):
        now = found.next_end
        for then in found.ended(now):
            before = len(ends)
            then()
            assert len(ends) == before + 1
            ends[list(ends)[-1]] = now
        found.settle(now)


def test_a_transfer_that_ends_leaves_its_share_to_the_other() -> None:
    found, ends = network(), dict[str, float]()
    found.start(0, 1, limit=np.inf, size=50.0, then=lambda: ends.update(short=0.0))
    found.start(0, 2, limit=np.inf, size=100.0, then=lambda: ends.update(long=0.0))
    run(found, ends)
    assert ends == {"short": 10.0, "long": 15.0}, "5 a second each, then 10 for the long one"


def test_a_cancelled_transfer_says_what_it_moved() -> None:
    found, ends = network(), dict[str, float]()
    name = found.start(0, 1, limit=np.inf, size=100.0, then=lambda: None)
    found.start(0, 2, limit=np.inf, size=100.0, then=lambda: ends.update(other=0.0))
    found.settle(0.0)
    assert found.cancel(name, 4.0) == pytest.approx(20.0)
    found.settle(4.0)
    assert found.next_end == pytest.approx(12.0), "20 of 100 are there, the rest at the full rate"
    assert found.cancel(found.start(0, 1, limit=1.0, size=9.0, then=lambda: None), 4.0) == 0.0


def test_transfers_of_nothing_and_over_unbounded_links_end_at_once() -> None:
    for up, size in ((np.inf, 1e12), (10.0, 0.0)):
        found, ends = network(up), dict[str, float]()
        found.start(0, 1, limit=np.inf, size=size, then=lambda ends=ends: ends.update(it=-1.0))  # type: ignore[misc]
        run(found, ends)
        assert ends == {"it": 0.0}
