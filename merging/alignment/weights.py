"""Matching by weights alone: no data.

Source: Ainsworth, Hayase and Srinivasa 2022, "Git Re-Basin", section 3.2 and Algorithm 1:
    coordinate descent over layers, each a linear assignment. Here the layers are the groups
    of a traced model, visited in their order rather than in a random one, so that the result
    needs no seed; and nested groups are solved together.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from weft.merging.alignment.assignment import Pairs, Tree, best_orders, trees_of
from weft.merging.alignment.axes import Sum, Term, Units
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.permutations import Permutation

SWEEPS: Final = 100
"""At most so many times over all groups; a handful is what it takes."""

Tensors = Mapping[str, Tensor]


def match_weights(groups: Groups, anchor: Tensors, other: Tensors) -> Permutation:
    """The order of another model's units in which its weights are nearest to the anchor's.

    Args:
        groups: of both.
        anchor: parameters by name, without running statistics: those follow.
        other: those of the model to be permuted.
    """
    permutation = Permutation.identity(groups)
    roots = trees_of(groups)
    for _ in range(SWEEPS):
        changed = False
        for root in roots:
            found = best_orders(root, Common(permutation, anchor, other, root))
            before = {group: permutation.orders[group] for group in found}
            if any(not torch.equal(found[group], before[group]) for group in found):
                changed = True
                permutation = permutation.with_orders(found)
        if not changed:
            break
    return permutation


class Common:
    """Inner products of what two models' units are connected by, other groups as they are now.

    Args:
        permutation: of the groups so far; those of the root stay aside.
        anchor, other: the two models.
        root: the groups that are being matched.
    """

    def __init__(
        self, permutation: Permutation, anchor: Tensors, other: Tensors, root: Tree
    ) -> None:
        matched = set(root.groups)
        aside = {g: order for g, order in permutation.orders.items() if g not in matched}
        self._groups = permutation.groups
        self._partly = Permutation(permutation.groups, aside)
        self._anchor, self._other = anchor, other
        self._matched = {group.leaf: group for group in matched}

    def __call__(self, group: Group) -> Pairs | None:
        """(path..., path...) of a group; None where no tensor has it as its innermost one."""
        total: Tensor | None = None
        for name in group.tensors:
            if name not in self._anchor:
                continue
            layout = self._groups.layouts[name]
            moved = self._partly.tensor(self._other[name], layout)
            for mine, theirs, leaves in pieces(self._groups, self._anchor[name], moved, layout):
                if self._deepest(leaves) is group:
                    product = rows(mine, leaves, group) @ rows(theirs, leaves, group).T
                    total = product if total is None else total + product
        if total is None:
            return None
        sizes = (*group.orders, group.size)
        return total.reshape(*sizes, *sizes).cpu().numpy()

    def _deepest(self, leaves: list[Units]) -> Group | None:
        """The innermost of the matched groups that a piece has."""
        found = [self._matched[leaf] for leaf in leaves if leaf in self._matched]
        return max(found, key=lambda group: len(group.within), default=None)


def pieces(
    groups: Groups, one: Tensor, other: Tensor, layout: Sequence[Term]
) -> list[tuple[Tensor, Tensor, list[Units]]]:
    """Two tensors with one axis a leaf, a piece for each strand."""
    axes = groups.axes
    factors = [factor for term in layout for factor in axes.factors(term)]
    shape = [factor.size for factor in factors]
    one, other = one.reshape(shape), other.reshape(shape)
    for place, factor in enumerate(factors):
        if isinstance(factor, Sum):
            sizes = [part.size for part in factor.parts]
            cuts = zip(
                torch.split(one, sizes, dim=place),
                torch.split(other, sizes, dim=place),
                factor.parts,
                strict=True,
            )
            return [
                each
                for mine, theirs, part in cuts
                for each in pieces(
                    groups, mine, theirs, [*factors[:place], part, *factors[place + 1 :]]
                )
            ]
    return [(one, other, [leaf for factor in factors for leaf in axes.leaves(factor)])]


def rows(tensor: Tensor, leaves: list[Units], group: Group) -> Tensor:
    """(units of the path, everything else) float64."""
    return unit_rows(tensor, leaves, group).double()


def unit_rows(tensor: Tensor, leaves: list[Units], group: Group) -> Tensor:
    """(units of the path, everything else), a view where that can be."""
    path = [leaves.index(leaf) for leaf in (*group.within, group.leaf)]
    rest = [place for place in range(len(leaves)) if place not in path]
    return tensor.permute(*path, *rest).reshape(group.units, -1)
