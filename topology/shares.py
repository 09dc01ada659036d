"""Which tensors of a global merge belong together, and whose turn they are.

A global merge is sharded by tensors: each share is folded once, by its first
owner, for all. The fold is exact, so whoever folds a share gets the same bytes:
the next owner in line may take over without asking anybody.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def split_shares(sizes: Mapping[str, int], shares: int) -> list[list[str]]:
    """Cut the tensors into shares of about equal bytes.

    Largest first, each into the share that is lightest so far (the first of
    equals): a share is at most 4/3 of the best possible largest one.

    Args:
        sizes: bytes by tensor name.
        shares: how many, at least 1; shares beyond the tensors stay empty.

    Returns:
        The names of each share, sorted.

    Source: Graham 1969, "Bounds on multiprocessing timing anomalies",
        longest processing time first.
    """
    loads = [0] * shares
    cut: list[list[str]] = [[] for _ in range(shares)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lightest = loads.index(min(loads))
        cut[lightest].append(name)
        loads[lightest] += sizes[name]
    return [sorted(names) for names in cut]


def owners(share: int, contributors: Sequence[T]) -> list[T]:
    """Who folds a share, in the order in which they take over from each other."""
    turn = share % len(contributors)
    return [*contributors[turn:], *contributors[:turn]]
