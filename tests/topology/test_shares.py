"""Shares of a global merge: a partition, balanced, with every turn taken once."""

from hypothesis import given
from hypothesis import strategies as st

from weft.topology.shares import owners, split_shares

SIZES = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(0, 10**6), max_size=40)


@given(SIZES, st.integers(1, 9))
def test_every_tensor_is_in_one_share(sizes: dict[str, int], shares: int) -> None:
    cut = split_shares(sizes, shares)
    assert len(cut) == shares
    assert sorted(name for names in cut for name in names) == sorted(sizes)
    assert all(names == sorted(names) for names in cut)


@given(SIZES, st.integers(1, 9))
def test_no_share_is_heavier_than_the_bound(sizes: dict[str, int], shares: int) -> None:
    loads = [sum(sizes[name] for name in names) for names in split_shares(sizes, shares)]
    fair = sum(sizes.values()) / shares
    heaviest = max(sizes.values(), default=0)
    # Graham 1969: at most the mean load plus one tensor.
    assert max(loads) <= fair + heaviest


def test_by_hand() -> None:
    assert split_shares({"a": 5, "b": 4, "c": 3, "d": 3}, 2) == [["a", "d"], ["b", "c"]]
    assert split_shares({}, 2) == [[], []]


def test_each_owner_once_and_everybody_first_in_turn() -> None:
    members = ["a", "b", "c"]
    assert owners(1, members) == ["b", "c", "a"]
    assert owners(4, members) == ["b", "c", "a"]
    assert {owners(share, members)[0] for share in range(3)} == set(members)
