"""What a person knows of a model's units beyond its graph: groups pinned, groups split.

A graph says what can change places without changing the function. It does not say what
should: units that mean something to whoever reads them, halves that were pruned apart.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from weft.merging.alignment.groups import Group, Groups, groups_of
from weft.merging.alignment.tracing import Traced
from weft.merging.errors import CannotAlign

PINNED: Final = "pinned by the overrides"
SPLIT: Final = "a part of a group that the overrides split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """By names of groups as they are without overrides.

    Attributes:
        pin: these stay in their order.
        split: these fall into so many parts of equal size, one after the other, and no unit
            leaves its part.
    """

    pin: tuple[str, ...] = ()
    split: Mapping[str, int] = field(default_factory=dict)


def overridden_groups(traced: Traced, overrides: Overrides) -> Groups:
    """The groups of a traced model, after overrides.

    Changes what the axes of `traced` mean, so that what is found by them later agrees.

    Raises:
        CannotAlign: no group of that name, or one that cannot be split so; changes nothing.
    """
    groups = groups_of(traced)
    named = {group.name: group for group in groups.groups}
    for name in (*overrides.pin, *overrides.split):
        _require(name, named)
    for name, parts in overrides.split.items():
        _require_parts(named[name], parts, groups)
    for name, parts in overrides.split.items():
        _split(traced, named[name], parts)
    for name in overrides.pin:
        traced.axes.pin(named[name].leaf, PINNED)
    return groups_of(traced)


def _require(name: str, named: Mapping[str, Group]) -> None:
    if name in named:
        return
    near = difflib.get_close_matches(name, named, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its groups: {', '.join(named) or 'none'}"
    raise CannotAlign(f"overrides: the model has no group {name!r}; {hint}")


def _require_parts(group: Group, parts: int, groups: Groups) -> None:
    if parts < 1 or group.size % parts:
        raise CannotAlign(
            f"overrides: group {group.name!r} has {group.size} units, found {parts} parts;"
            " expected a number that divides them"
        )
    if group.within and any(group.leaf in each.within for each in groups.groups):
        raise CannotAlign(
            f"overrides: group {group.name!r} lies within a group and has one within itself;"
            " split the outermost or the innermost one"
        )


def _split(traced: Traced, group: Group, parts: int) -> None:
    """Parts as pinned units around the others; within a group as pieces, each a group."""
    if group.within:
        traced.axes.cut(group.leaf, [group.size // parts] * parts)
    else:
        outer, _ = traced.axes.factored(group.leaf, (parts, group.size // parts))
        traced.axes.pin(outer, SPLIT)
