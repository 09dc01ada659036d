"""Scales of units that change nothing, and one model brought to another's.

Where a unit passes only through operators that pass a positive factor on, such as relu, it may be
multiplied by any s > 0 where it is made and divided by s where it is read. Two networks that
are equal but for that are not equal in the mean of their weights: permutations alone do not
undo it. Which units can be scaled is read off the graph, as their orders are.

Source: Neyshabur, Salakhutdinov and Srebro 2015, "Path-SGD", for the rescaling that leaves a
    rectified network's function; Stock et al. 2019, "Equi-normalization of Neural Networks",
    for the balanced one, whose squared norm is the least of all. Here for any graph, with
    norm layers' weights and biases as makers, and with biases counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias

import torch
from torch import Tensor

from weft.merging.alignment.axes import Axes, Term, Units
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.layer_laws import unscaled
from weft.merging.alignment.observation import Seen
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.power_laws import HOMOGENEOUS
from weft.merging.alignment.powers import Powers, Slot, powers_of
from weft.merging.alignment.strands import rewritten, strands
from weft.merging.alignment.tracing import Traced

SWEEPS: Final = 1000
"""At most so many times over all scales; a handful is what most networks take."""
CLOSE: Final = 1e-9
"""Balanced, when no scale changes by more than this share in a sweep."""
SILENT: Final = 1e-6
"""A unit with less than this share of its group's root mean square is not scaled: what it
says is rounding, or next to nothing."""

Tensors = Mapping[str, Tensor]
Powered: TypeAlias = Mapping[int, int]
"""Powers by place in a layout."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scalable:
    """Units that can be scaled.

    Attributes:
        group: whose units; each has a scale of its own in each of the group's orders.
        tensors: for each parameter or buffer that is scaled, the powers of its places.
        values: for each value of the graph that is scaled by power one wherever it has the
            units, its node's name.
    """

    group: Group
    tensors: Mapping[str, Powered]
    values: frozenset[str]

    @property
    def path(self) -> tuple[Units, ...]:
        """Leaves of a scale's axes."""
        return (*self.group.within, self.group.leaf)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scales: (orders..., size)."""
        return (*self.group.orders, self.group.size)


@dataclass(frozen=True, slots=True)
class Scales:
    """A scale for units of a model.

    Attributes:
        groups: of the model.
        factors: (orders..., size) float64, positive, by what can be scaled.
    """

    groups: Groups
    factors: Mapping[Scalable, Tensor]

    def applied(self, tensors: Tensors) -> dict[str, Tensor]:
        """A model's tensors, by name, at these scales; the same objects where nothing is."""
        result = dict(tensors)
        for scalable, factors in self.factors.items():
            for name, powers in scalable.tensors.items():
                if name in result:
                    layout = self.groups.layouts[name]
                    result[name] = _scaled(
                        self.groups.axes, result[name], layout, scalable, powers, factors
                    )
        return result

    def over(self, other: "Scales") -> "Scales":
        """From what the other one leads to, to what this one leads to."""
        return Scales(
            self.groups, {each: self.factors[each] / other.factors[each] for each in self.factors}
        )


def scalables_of(traced: Traced, groups: Groups) -> list[Scalable]:
    """All independent ways to scale a model's units, group by group.

    Ways in which some tensor has another power than one or minus one are left out.
    """
    powers = powers_of(traced, HOMOGENEOUS, unscaled)
    found = (
        _scalable(powers, group, powers.of(group.leaf, root))
        for group in groups.groups
        for root in powers.roots(group.leaf)
    )
    return [each for each in found if each is not None]


def balanced(groups: Groups, scalables: Sequence[Scalable], tensors: Tensors) -> Scales:
    """The scales at which the sum of all weights' squares is the least.

    For each unit what makes it and what reads it then have equal norm. There is one such
    model among all that differ by scales, so that it can stand for them. Units that nothing
    makes or nothing reads keep their scale.

    Args:
        groups: of the model.
        scalables: of the model.
        tensors: parameters by name; buffers are not looked at where they are not scaled.
    """
    total = {each: torch.ones(each.shape, dtype=torch.float64) for each in scalables}
    held = {name for each in scalables for name in each.tensors if name in tensors}
    current = {name: tensors[name].double() for name in held}
    for _ in range(SWEEPS):
        largest = 0.0
        for scalable in scalables:
            factors = _balance(groups, scalable, current)
            total[scalable] = total[scalable] * factors
            current.update(
                Scales(groups, {scalable: factors}).applied(
                    {name: current[name] for name in scalable.tensors if name in current}
                )
            )
            largest = max(largest, float((factors - 1).abs().max()))
        if largest < CLOSE:
            break
    return Scales(groups, total)


def scales_by_weights(
    groups: Groups, scalables: Sequence[Scalable], anchor: Tensors, other: Tensors
) -> Scales:
    """What brings another model, in the anchor's order of units, to the anchor's scale: no data.

    Args:
        groups: of both.
        scalables: of both.
        anchor: parameters by name.
        other: those of the model to be scaled.
    """
    return balanced(groups, scalables, other).over(balanced(groups, scalables, anchor))


def scales_by_activations(
    groups: Groups, scalables: Sequence[Scalable], seen: Seen, permutation: Permutation
) -> Scales:
    """What brings another model's units to the root mean square of the anchor's.

    Args:
        groups: of both.
        scalables: of both.
        seen: what the units of both do.
        permutation: from the other's order of units to the anchor's, in which the scales are.
    """
    factors: dict[Scalable, Tensor] = {}
    for scalable in scalables:
        found = [
            moments.squares
            for site, moments in seen.items()
            if site.group is scalable.group and site.node in scalable.values
        ]
        if found:
            mine, theirs = (
                torch.stack(side).sum(0).reshape(scalable.shape)
                for side in zip(*found, strict=True)
            )
            theirs = permutation.tensor(theirs, scalable.path)
            factors[scalable] = _ratio(mine, theirs).sqrt()
    return Scales(groups, factors)


def _scalable(powers: Powers, group: Group, found: Mapping[Slot, int]) -> Scalable | None:
    tensors: dict[str, dict[int, int]] = {}
    values: dict[str, set[int]] = {}
    for slot, power in found.items():
        if slot.node in powers.tensors:
            tensors.setdefault(powers.tensors[slot.node], {})[slot.place] = power
        else:
            values.setdefault(slot.node, set()).add(power)
    if any(abs(power) != 1 for each in tensors.values() for power in each.values()):
        return None
    if not tensors:
        return None
    return Scalable(
        group=group,
        tensors=tensors,
        values=frozenset(name for name, each in values.items() if each == {1}),
    )


def _scaled(
    axes: Axes,
    tensor: Tensor,
    layout: Sequence[Term],
    scalable: Scalable,
    powers: Powered,
    factors: Tensor,
) -> Tensor:
    def change(piece: Tensor, leaves: list[Units], places: list[int]) -> Tensor:
        for axis, place in enumerate(places):
            if place in powers:
                piece = piece * _spread(factors ** powers[place], scalable, leaves, axis).to(piece)
        return piece

    return rewritten(axes, tensor, layout, change, tensor.shape)


def _spread(factors: Tensor, scalable: Scalable, leaves: list[Units], axis: int) -> Tensor:
    """Scales with an axis for each of a piece's leaves."""
    at = _axes(scalable, leaves, axis)
    order = sorted(range(len(at)), key=at.__getitem__)
    shape = [leaf.size if place in at else 1 for place, leaf in enumerate(leaves)]
    return factors.permute(order).reshape(shape)


def _axes(scalable: Scalable, leaves: list[Units], axis: int) -> list[int]:
    """Of a scale's leaves in a piece; outer ones that are there more than once in turn."""
    turn = leaves[:axis].count(leaves[axis])
    at = [[n for n, each in enumerate(leaves) if each is leaf] for leaf in scalable.group.within]
    return [*(each[turn] if len(each) > 1 else each[0] for each in at), axis]


def _balance(groups: Groups, scalable: Scalable, tensors: Tensors) -> Tensor:
    """(orders..., size): how to scale these units, all others as they are."""
    sides = {1: torch.zeros(scalable.shape).double(), -1: torch.zeros(scalable.shape).double()}
    square = False
    for name, powers in scalable.tensors.items():
        if name in tensors:
            square = square or len(powers) > 1
            for axis_power, sums in _squares(groups, scalable, tensors[name], name):
                sides[axis_power] += sums
    # Where a weight's rows and columns are the same units, they all move at once: half way.
    return _ratio(sides[-1], sides[1]) ** (0.125 if square else 0.25)


def _squares(
    groups: Groups, scalable: Scalable, tensor: Tensor, name: str
) -> Iterator[tuple[int, Tensor]]:
    """For each place with a power: that, and the sums of squares by unit."""
    powers = scalable.tensors[name]
    for piece, leaves, places in strands(groups.axes, tensor, groups.layouts[name]):
        for axis, place in enumerate(places):
            if place in powers:
                at = _axes(scalable, leaves, axis)
                rest = [each for each in range(len(leaves)) if each not in at]
                spread = piece.permute(*at, *rest).reshape(prod(scalable.shape), -1)
                yield powers[place], spread.square().sum(1).reshape(scalable.shape)


def _ratio(wanted: Tensor, found: Tensor) -> Tensor:
    """One, where either side says nothing."""
    told = (wanted > SILENT**2 * wanted.mean()) & (found > SILENT**2 * found.mean())
    return torch.where(told, wanted / torch.where(told, found, 1.0), 1.0)
