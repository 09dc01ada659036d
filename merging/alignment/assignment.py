"""The best orders of nested groups, given how much each pair of units has in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from weft.merging.alignment.axes import Units
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.permutations import Order, unmoved

Pairs: TypeAlias = NDArray[np.float64]
"""(path..., path...): what each unit of the anchor, by its place in all leaves of a path from
the outermost inwards, has in common with each unit of the other model."""


@dataclass(slots=True)
class Tree:
    """A group with those that lie directly within it."""

    group: Group
    inner: list["Tree"] = field(default_factory=list)

    @property
    def path(self) -> tuple[Units, ...]:
        """From the outermost leaf to the group's own."""
        return (*self.group.within, self.group.leaf)

    @property
    def groups(self) -> list[Group]:
        """All groups of the tree, outer ones first."""
        return [self.group, *(group for each in self.inner for group in each.groups)]


def trees_of(groups: Groups) -> list[Tree]:
    """The groups as trees; those within fixed units only are roots."""
    by_path: dict[tuple[Units, ...], Tree] = {}
    roots: list[Tree] = []
    for group in groups.groups:
        tree = Tree(group)
        by_path[tree.path] = tree
        parent = by_path.get(group.within)
        (roots if parent is None else parent.inner).append(tree)
    return roots


def best_orders(tree: Tree, pairs: Callable[[Group], Pairs | None]) -> dict[Group, Order]:
    """Orders of a root's groups that have the most in common.

    A pair of outer units is worth what they have in common themselves, and what their inner
    units have in common in the best order of those: assignments within assignments, exact.

    Args:
        tree: a root.
        pairs: of a group: what its units have in common; None: nothing is known.
    """
    table: dict[Group, Pairs] = {}
    for group in tree.groups:
        found = pairs(group)
        if found is not None:
            table[group] = found
    orders = {group: unmoved(group) for group in tree.groups}
    for outer in np.ndindex(*tree.group.orders):
        _, best = _best(tree, table, outer, outer)
        for (group, place), order in best.items():
            orders[group][place] = torch.from_numpy(order)
    return orders


Found: TypeAlias = dict[tuple[Group, tuple[int, ...]], NDArray[np.int64]]


def _best(
    tree: Tree, table: Mapping[Group, Pairs], mine: tuple[int, ...], theirs: tuple[int, ...]
) -> tuple[float, Found]:
    """Value and orders of a tree for one pair of outer units."""
    size = tree.group.size
    scores = np.zeros((size, size))
    if tree.group in table:
        everything = slice(None)
        where: tuple[int | slice, ...] = (*mine, everything, *theirs, everything)
        scores += table[tree.group][where]
    below: dict[tuple[int, int], Found] = {}
    if tree.inner:
        for one, other in np.ndindex(size, size):
            below[one, other] = {}
            for each in tree.inner:
                value, found = _best(each, table, (*mine, one), (*theirs, other))
                scores[one, other] += value
                below[one, other] |= found
    order = assigned(scores)
    chosen: Found = {(tree.group, mine): order}
    for one, other in enumerate(order):
        chosen |= below.get((one, int(other)), {})
    return float(scores[np.arange(size), order].sum()), chosen


def assigned(scores: Pairs) -> NDArray[np.int64]:
    """For each row the column that it is given; the sum of what is chosen is the largest."""
    return np.asarray(linear_sum_assignment(scores, maximize=True)[1], dtype=np.int64)
