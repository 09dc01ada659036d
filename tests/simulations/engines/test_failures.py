"""What is lost: nothing but what was asked for, and the same again for the same seed."""

import numpy as np
import pytest

from tests.topology.built import built
from weft.simulations.engines.failures import Failures, Partition
from weft.simulations.errors import BadOption
from weft.topology.matrices import Mixing


def lost_pairs(failures: Failures, mixing: Mixing, round: int) -> set[tuple[int, int]]:
    """(receiver, sender) of what does not arrive."""
    lost = failures.lost(mixing, round)
    return set(zip(mixing.receivers[lost].tolist(), mixing.senders[lost].tolist(), strict=True))


def test_nothing_goes_wrong_unless_asked() -> None:
    assert not Failures().any
    assert lost_pairs(Failures(), built("ring", 8).mixing(0), 0) == set()


def test_both_ends_lose_an_edge_unless_one_sided() -> None:
    mixing = built("random_regular", 500).mixing(0)
    both = lost_pairs(Failures(loss=0.3), mixing, 4)
    assert both == {(sender, receiver) for receiver, sender in both}
    one = lost_pairs(Failures(loss=0.3, one_sided=True), mixing, 4)
    assert one != {(sender, receiver) for receiver, sender in one}
    for lost in (both, one):
        assert len(lost) / mixing.messages == pytest.approx(0.3, abs=0.04)


def test_the_same_again_and_another_round_and_seed_are_others() -> None:
    mixing = built("exponential", 64).mixing(0)
    first = lost_pairs(Failures(loss=0.2), mixing, 7)
    assert first == lost_pairs(Failures(loss=0.2), mixing, 7)
    assert first != lost_pairs(Failures(loss=0.2), mixing, 8)
    assert first != lost_pairs(Failures(loss=0.2, seed=1), mixing, 7)


def test_whether_an_edge_is_lost_does_not_hang_on_the_graph() -> None:
    complete, ring = built("complete", 30).mixing(0), built("ring", 30).mixing(0)
    failures = Failures(loss=0.5)
    edges = set(zip(ring.receivers.tolist(), ring.senders.tolist(), strict=True))
    assert lost_pairs(failures, ring, 2) == lost_pairs(failures, complete, 2) & edges


def test_everything_is_lost_at_one_but_never_oneself() -> None:
    mixing = built("complete", 9).mixing(0)
    for failures in (Failures(loss=1), Failures(churn=1)):
        assert len(lost_pairs(failures, mixing, 0)) == mixing.messages == 72


def test_who_is_away_neither_gives_nor_takes_and_stays_away_for_the_stretch() -> None:
    mixing, failures = built("complete", 40).mixing(0), Failures(churn=0.25, absence=3)
    away = failures.away(40, 4)
    gone = set(np.flatnonzero(away).tolist())
    assert 0 < len(gone) < 40
    expected = {(i, j) for i in range(40) for j in range(40) if i != j and {i, j} & gone}
    assert lost_pairs(failures, mixing, 4) == expected
    assert np.array_equal(failures.away(40, 3), away)
    assert np.array_equal(failures.away(40, 5), away)
    assert not np.array_equal(failures.away(40, 6), away)


def test_churn_is_a_share_of_the_nodes_on_average() -> None:
    shares = [Failures(churn=0.1).away(1000, round).mean() for round in range(50)]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.005)


def test_a_partition_cuts_a_ring_twice_for_its_rounds() -> None:
    failures = Failures(partitions=(Partition(start=2, stop=4),))
    mixing = built("ring", 6).mixing(0)
    cut = {(2, 3), (3, 2), (0, 5), (5, 0)}
    assert [lost_pairs(failures, mixing, round) for round in range(5)] == [
        set(), set(), cut, cut, set(),
    ]  # fmt: skip


def test_parts_are_equal_up_to_a_node() -> None:
    failures = Failures(partitions=(Partition(start=0, stop=1, parts=3),))
    after = built("complete", 8).mixing(0)
    kept = after.without(failures.lost(after, 0))
    assert sorted(len(kept.neighbours(node)) + 1 for node in range(8)) == [2, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"loss": 1.5}, "loss: found 1.5, expected 0 to 1"),
        ({"loss": float("nan")}, "loss: found nan"),
        ({"churn": -0.1}, "churn: found -0.1"),
        ({"absence": 0}, "absence: found 0, expected at least 1 round"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], complaint: str) -> None:
    with pytest.raises(BadOption, match=complaint):
        Failures(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [(3, 3, 2), (-1, 3, 2), (0, 3, 1)])
def test_bad_partitions_are_refused(options: tuple[int, int, int]) -> None:
    start, stop, parts = options
    with pytest.raises(BadOption, match=r"^partition: found Partition"):
        Partition(start=start, stop=stop, parts=parts)
