"""Other orders of units, and a model's tensors in them.

A permutation of a group is an index tensor (orders..., size): new unit i of an outer unit is
old unit `index[outer, i]`, counted within it. The network computes the same function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from weft.merging.alignment.axes import Sum, Term, Units
from weft.merging.alignment.groups import Group, Groups

Order: TypeAlias = Tensor
"""int64 (orders..., size), a permutation of 0..size-1 in every row."""


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order for each of a model's groups.

    Attributes:
        groups: of the model.
        orders: by group; a group that is not there keeps its order.
    """

    groups: Groups
    orders: Mapping[Group, Order]

    @classmethod
    def identity(cls, groups: Groups) -> "Permutation":
        """Everything where it is."""
        return cls(groups, {group: unmoved(group) for group in groups.groups})

    @property
    def moved(self) -> float:
        """Which share of all units that can move did."""
        units = sum(group.units for group in self.groups.groups)
        moved = sum(group.units * _moved_share(order) for group, order in self.orders.items())
        return moved / units if units else 0.0

    def with_orders(self, orders: Mapping[Group, Order]) -> "Permutation":
        """The same but for some groups."""
        return Permutation(self.groups, {**self.orders, **orders})

    def applied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A model's tensors, by name, in the new order; those without a layout as they are."""
        layouts = self.groups.layouts
        return {
            name: self.tensor(tensor, layouts[name]) if name in layouts else tensor
            for name, tensor in tensors.items()
        }

    def tensor(self, tensor: Tensor, layout: Sequence[Term]) -> Tensor:
        """One tensor in the new order; a copy where anything moves."""
        factors = [factor for term in layout for factor in self.groups.axes.factors(term)]
        spread = tensor.reshape([factor.size for factor in factors])
        for place, factor in enumerate(factors):
            if isinstance(factor, Sum):
                return self._piecewise(spread, factors, place, factor).reshape(tensor.shape)
        leaves = [leaf for factor in factors for leaf in self.groups.axes.leaves(factor)]
        for group in self.groups.groups:
            if group in self.orders and group.leaf in leaves:
                spread = _reordered(spread, leaves, group, self.orders[group])
        return spread.reshape(tensor.shape)

    def _piecewise(self, tensor: Tensor, factors: list[Term], place: int, term: Sum) -> Tensor:
        pieces = torch.split(tensor, [part.size for part in term.parts], dim=place)
        return torch.cat(
            [
                self.tensor(piece, [*factors[:place], part, *factors[place + 1 :]])
                for piece, part in zip(pieces, term.parts, strict=True)
            ],
            dim=place,
        )


def unmoved(group: Group) -> Order:
    """The order that a group has."""
    return torch.arange(group.size).expand(*group.orders, group.size).clone()


def _moved_share(order: Order) -> float:
    """Which part of the units changed its place."""
    return (order != torch.arange(order.shape[-1])).double().mean().item()


def _reordered(tensor: Tensor, leaves: Sequence[Units], group: Group, order: Order) -> Tensor:
    """A tensor with one axis a leaf, in a group's new order.

    Outer groups have been moved before, so an inner order is looked up by the new outer
    units.
    """
    index = order.to(tensor.device)
    for which in range(leaves.count(group.leaf)):
        # A leaf that is there more than once has an outer axis of its own each time, or one
        # for all.
        places = [
            _place(leaves, leaf, which if leaves.count(leaf) > 1 else 0) for leaf in group.within
        ]
        at = _place(leaves, group.leaf, which)
        tensor = _along(tensor, index, places, at)
    return tensor


def _along(tensor: Tensor, index: Order, places: list[int], at: int) -> Tensor:
    """An axis in an order for each unit of some others."""
    if not places:
        return tensor.index_select(at, index)
    shape = [1] * tensor.dim()
    for place in (*places, at):
        shape[place] = tensor.shape[place]
    wanted = sorted(range(len(places) + 1), key=[*places, at].__getitem__)
    return torch.take_along_dim(tensor, index.permute(wanted).reshape(shape), dim=at)


def _place(leaves: Sequence[Units], leaf: Units, which: int) -> int:
    """Of a leaf that may be there more than once."""
    return [place for place, each in enumerate(leaves) if each is leaf][which]
