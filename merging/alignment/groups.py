"""Groups of units that move together: what of a traced model can be permuted.

A group is one leaf of the terms: the channels of a stream with all its residual additions,
the heads of a layer of attention, the units of one head. Where every tensor that holds the
inner units also holds the outer ones (a head's units are never seen without their head),
each outer unit may have an order of its inner units of its own; the outer groups are then
the inner one's `within`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import TypeAlias

from weft.merging.alignment.axes import Axes, Units
from weft.merging.alignment.calls import Found, Value
from weft.merging.alignment.tracing import Traced


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Units that can change places.

    Attributes:
        name: the first tensor that has them, its axis, and the part of that.
        size: how many change places with each other.
        within: leaves outside of them, for each of whose units they have an order of their
            own; from the outermost inwards.
        tensors: names of the parameters and buffers that have them.
    """

    leaf: Units
    name: str
    size: int
    within: tuple[Units, ...]
    tensors: tuple[str, ...]

    @property
    def orders(self) -> tuple[int, ...]:
        """Sizes of the leaves within: a permutation for each of their units."""
        return tuple(leaf.size for leaf in self.within)

    @property
    def units(self) -> int:
        """How many units can be put in another order, in all orders together."""
        return self.size * prod(self.orders)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fixed:
    """Units of a tensor that stay where they are, and why."""

    tensor: str
    axis: int
    size: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """All of a model's groups, outer ones before those within them.

    Attributes:
        axes: of `layouts`.
        layouts: the terms of each parameter's and buffer's axes.
        groups: what can be permuted.
        fixed: what cannot, a line for every axis of a tensor.
    """

    axes: Axes
    layouts: Mapping[str, Value]
    groups: tuple[Group, ...]
    fixed: tuple[Fixed, ...]

    def of(self, leaf: Units) -> Group | None:
        """The group of a leaf, if it can be permuted."""
        return next((group for group in self.groups if group.leaf is leaf), None)


def groups_of(traced: Traced) -> Groups:
    """Find what can be permuted."""
    axes = traced.axes
    holders = _holders(axes, traced.tensors)
    free = [leaf for leaf in holders if not leaf.pinned and leaf.size > 1]
    chains = _Chains(axes, traced, holders)
    found = [_group(axes, leaf, holders[leaf], chains, traced.tensors) for leaf in free]
    return Groups(
        axes=axes,
        layouts=traced.tensors,
        groups=tuple(sorted(found, key=lambda group: len(group.within))),
        fixed=tuple(_fixed(axes, traced.tensors)),
    )


def _group(
    axes: Axes,
    leaf: Units,
    places: "Places",
    chains: "_Chains",
    tensors: Mapping[str, Value],
) -> Group:
    name, axis = places[0]
    return Group(
        leaf=leaf,
        name=_name(axes, leaf, name, axis, tensors[name]),
        size=leaf.size,
        within=chains.of(leaf),
        tensors=tuple(dict.fromkeys(name for name, _ in places)),
    )


def _name(axes: Axes, leaf: Units, tensor: str, axis: int, value: Value) -> str:
    """`layer.weight[0]`; `layer.weight[0.1]` for the second part of that axis."""
    parts = list(axes.leaves(value[axis]))
    return f"{tensor}[{axis}]" if len(parts) == 1 else f"{tensor}[{axis}.{parts.index(leaf)}]"


Places: TypeAlias = list[tuple[str, int]]
"""Axes of tensors: name and number."""


def _holders(axes: Axes, tensors: Mapping[str, Value]) -> dict[Units, Places]:
    """For each leaf the axes of tensors that hold it."""
    found: dict[Units, Places] = {}
    for name, value in tensors.items():
        for place, term in enumerate(value):
            for leaf in axes.leaves(term):
                found.setdefault(leaf, []).append((name, place))
    return found


class _Chains:
    """For each leaf those that it lies within, from the outermost inwards."""

    def __init__(self, axes: Axes, traced: Traced, holders: Mapping[Units, Places]) -> None:
        self._axes, self._tensors, self._holders = axes, traced.tensors, holders
        self._together = _together(axes, traced)
        self._known: dict[Units, tuple[Units, ...]] = {}

    def of(self, leaf: Units) -> tuple[Units, ...]:
        """The chain of a leaf; each of its links has as its own chain the links before it."""
        if leaf not in self._known:
            value = self._tensors[self._holders[leaf][0][0]]
            strands = (list(chain.from_iterable(each)) for each in self._axes.strands(value))
            order = next(each for each in strands if leaf in each)
            links: tuple[Units, ...] = ()
            for each in order[: order.index(leaf)]:
                fits = each.size > 1 and each in self._together[leaf]
                if fits and (each.pinned or self.of(each) == links):
                    links = (*links, each)
            self._known[leaf] = links
        return self._known[leaf]


def _together(axes: Axes, traced: Traced) -> dict[Units, set[Units]]:
    """For each leaf those within which every tensor and value that holds it holds it."""
    found: dict[Units, set[Units]] = {}
    every = (*traced.tensors.values(), *_flat(traced.values.values()), *traced.met)
    for strand in (each for value in every for each in axes.strands(value)):
        counts = Counter(chain.from_iterable(strand))
        for leaf in counts:
            others = {each for each in counts if _holds(strand, counts, each, leaf)}
            found[leaf] = found[leaf] & others if leaf in found else others
    return found


def _holds(
    strand: Sequence[Sequence[Units]], counts: Counter[Units], outer: Units, leaf: Units
) -> bool:
    """Whether it is plain which outer unit each unit of a leaf is of.

    There is one outer axis; or the leaf is there more than once, as in a layer from a stream
    to itself, and each time beside an outer one of its own.
    """
    if outer is leaf or counts[outer] == 1:
        return outer is not leaf
    own = [part for part in strand if leaf in part or outer in part]
    return all(part.count(leaf) == 1 == part.count(outer) for part in own)


def _fixed(axes: Axes, tensors: Mapping[str, Value]) -> Iterator[Fixed]:
    for name, value in tensors.items():
        for place, term in enumerate(value):
            for leaf in axes.leaves(term):
                if leaf.pinned and leaf.size > 1:
                    yield Fixed(tensor=name, axis=place, size=leaf.size, why=leaf.pinned)


def _flat(values: Iterable[Found]) -> Iterator[Value]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value
