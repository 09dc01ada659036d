"""Leases and waits against a clock that the test turns."""

from hypothesis import given
from hypothesis import strategies as st

from weft.coordinator.leases import Leases, Waits
from weft.protocol.run import NodeId, Phase

A, B = NodeId("a"), NodeId("b")


def test_a_lease_runs_from_the_last_word() -> None:
    leases = Leases([A, B], lease_s=30, now=100.0)
    leases.renew(A, 110.0)
    assert leases.expired(130.0) == ()
    assert leases.expired(130.1) == (B,)
    assert leases.is_valid(A, 140.0)
    assert leases.expired(140.1) == (A, B)
    assert leases.silent_s(A, 140.1) == 140.1 - 110.0


def test_who_is_no_member_has_no_lease() -> None:
    leases = Leases([A], lease_s=30, now=0.0)
    assert not leases.is_valid(B, 0.0)
    assert leases.silent_s(B, 5.0) == 0.0
    leases.forget(A)
    leases.forget(A)
    assert leases.expired(1e9) == ()


def test_after_a_restart_everybody_has_a_full_lease_but_nobody_is_heard() -> None:
    leases = Leases([A, B], lease_s=30, now=1000.0)
    assert leases.expired(1030.0) == ()
    assert leases.unheard(1001.0) == (A, B)
    leases.renew(B, 1002.0)
    assert leases.unheard(1003.0) == (A,)
    assert leases.unheard(1030.5) == (), "who is silent for a whole lease is not waited for"


def test_joining_gives_a_lease_but_tells_no_round() -> None:
    leases = Leases([A], lease_s=30, now=0.0)
    leases.grant(A, 20.0)
    leases.grant(B, 20.0)
    assert leases.expired(40.0) == ()
    assert leases.unheard(40.0) == (A,), "A came back; B is new and in round 0"


def test_a_pause_of_the_coordinator_gives_fresh_leases() -> None:
    leases = Leases([A, B], lease_s=30, now=0.0)
    leases.renew(A, 1.0)
    assert not leases.pass_time(10.0, expected_s=1.0)
    assert leases.pass_time(100.0, expected_s=1.0)
    assert leases.expired(130.0) == ()
    assert leases.unheard(100.0) == (A, B)
    assert leases.expired(130.1) == (A, B)


@given(st.lists(st.floats(0.1, 16.0), min_size=1, max_size=40))
def test_a_member_is_only_lost_while_somebody_was_listening(gaps: list[float]) -> None:
    """Whatever the ticks: a lease ends only after ticks that cover at least half of it."""
    leases = Leases([A], lease_s=30, now=0.0)
    now = listened = 0.0
    for gap in gaps:
        now += gap
        if leases.pass_time(now, expected_s=1.0):
            listened = 0.0
        else:
            listened += gap
        assert (A in leases.expired(now)) == (listened > 30), (now, listened)


def test_a_phase_waits_from_when_it_opened() -> None:
    waits = Waits()
    waits.watch([Phase.PARAMETERS], 10.0)
    waits.watch([Phase.PARAMETERS, Phase.STATISTICS], 30.0)
    assert waits.overdue(60.0, 69.9) == ()
    assert waits.overdue(60.0, 70.0) == (Phase.PARAMETERS,)
    waits.watch([Phase.STATISTICS], 71.0)
    assert waits.overdue(60.0, 90.0) == (Phase.STATISTICS,)
    waits.watch([], 91.0)
    assert waits.overdue(0.0, 1e6) == ()
