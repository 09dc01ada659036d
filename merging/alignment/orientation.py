"""Which tensors make a group's units and which read them.

An order is put on an axis without asking that; a mixture of units is not: what makes a
mixture is the mixture of what makes its units, and what reads it shares out what read them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from weft.merging.alignment.axes import Axes, Term, Units
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.layer_laws import unscaled
from weft.merging.alignment.power_laws import ORIENTED
from weft.merging.alignment.powers import Powers, powers_of
from weft.merging.alignment.strands import rewritten
from weft.merging.alignment.tracing import Traced

Places: TypeAlias = frozenset[int]
"""Of a layout: how many leaves come before, those of size one left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Oriented:
    """A group of units that can be mixed.

    Attributes:
        group: without groups within it or around it.
        made: for each tensor that makes the units, in which places they lie.
        read: the same for tensors that read them.
    """

    group: Group
    made: Mapping[str, Places]
    read: Mapping[str, Places]


def oriented_of(traced: Traced, groups: Groups) -> list[Oriented]:
    """The groups whose makers and readers the graph tells apart."""
    powers = powers_of(traced, ORIENTED, unscaled)
    outer = {leaf for group in groups.groups for leaf in group.within}
    plain = (group for group in groups.groups if not group.within and group.leaf not in outer)
    found = (_oriented(powers, group) for group in plain)
    return [each for each in found if each is not None]


def along_leaf(
    axes: Axes,
    tensor: Tensor,
    layout: Sequence[Term],
    matrices: Mapping[int, Tensor],
    shape: Sequence[int],
) -> Tensor:
    """A tensor with a matrix put on some of its leaves.

    Args:
        axes: of the layout.
        tensor: any floating dtype; not modified.
        layout: its terms.
        matrices: (new units, units) by place.
        shape: of what comes of it.
    """

    def change(piece: Tensor, leaves: list[Units], places: list[int]) -> Tensor:
        for axis, place in enumerate(places):
            if place in matrices:
                matrix = matrices[place].to(piece)
                piece = torch.tensordot(matrix, piece, dims=([1], [axis])).movedim(0, axis)
        return piece

    return rewritten(axes, tensor, layout, change, shape)


def _oriented(powers: Powers, group: Group) -> Oriented | None:
    """None where units are made and read in ways that one sign does not tell apart."""
    roots = powers.roots(group.leaf)
    if len(roots) != 1:
        return None
    found = powers.of(group.leaf, roots[0])
    slots = powers.slots[group.leaf]
    values = {found.get(slot, 0) for slot in slots if slot.node not in powers.tensors}
    if values != {1} and values != {-1}:
        return None
    sign = values.pop()
    sides: dict[int, dict[str, set[int]]] = {1: {}, -1: {}}
    for slot in slots:
        if slot.node in powers.tensors:
            side = sides.get(sign * found.get(slot, 0))
            if side is None:
                return None
            side.setdefault(powers.tensors[slot.node], set()).add(slot.place)
    made, read = ({name: frozenset(at) for name, at in sides[s].items()} for s in (1, -1))
    return Oriented(group=group, made=made, read=read)
