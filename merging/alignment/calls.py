"""One call in a traced graph, as the rules of operators see it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.fx import Node

from weft.merging.alignment.axes import Axes, Term
from weft.merging.errors import CannotAlign

Value: TypeAlias = tuple[Term, ...]
"""The terms of a tensor's axes."""
Found: TypeAlias = "Value | list[Value]"
"""What a call returns: a tensor, or several."""


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, and what is known of the axes of its arguments.

    Attributes:
        met: axes that hold units side by side inside an operator: what a contraction sums
            over with what it does not, what a softmax leaves alone. A group's inner units
            may differ in their order from outer unit to outer unit only where these agree.
    """

    node: Node
    axes: Axes
    known: Mapping[Node, Found]
    met: list[Value]

    @property
    def operator(self) -> str:
        """The name without namespace and overload, and without the mark of being in place."""
        return operator_name(self.node)

    def given(self, place: int, name: str, default: Any = None) -> Any:
        """An argument as it was written, by position or by name."""
        if place < len(self.node.args):
            return self.node.args[place]
        return self.node.kwargs.get(name, default)

    def tensor(self, place: int, name: str = "") -> Value | None:
        """The axes of an argument that is a tensor; None where it is none."""
        found = self.given(place, name)
        value = self.known.get(found) if isinstance(found, Node) else None
        return value if isinstance(value, tuple) else None

    def first(self) -> Value:
        """The axes of the first argument, which is a tensor."""
        found = self.tensor(0, "input")
        return () if found is None else found

    def listed(self, place: int, name: str) -> list[Value]:
        """The axes of the tensors in an argument that is a list."""
        found = self.given(place, name) or ()
        values = (self.known.get(each) for each in found if isinstance(each, Node))
        return [value for value in values if isinstance(value, tuple)]

    def tensors(self) -> Iterator[Value]:
        """The axes of all arguments that are tensors, in lists too."""
        for node in self.node.all_input_nodes:
            value = self.known.get(node)
            if isinstance(value, list):
                yield from value
            elif value is not None:
                yield value

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of what the call returns."""
        return shapes_of(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first tensor that the call returns."""
        return self.shapes[0] if self.shapes else ()

    def fresh(self, shape: Sequence[int], why: str = "") -> Value:
        """New axes; pinned where a reason is given."""
        return tuple(self.axes.units(size, why) for size in shape)

    def pin(self, terms: Sequence[Term], why: str = "") -> None:
        """Let units stay where they are; by default because of this operator."""
        for term in terms:
            self.axes.pin(term, why or f"read in order by {self.operator}")


Rule: TypeAlias = Callable[[Call], Found]
"""What an operator does to axes."""


def operator_name(node: Node) -> str:
    """Such as `conv2d`, of `aten.conv2d.default`."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", "")
    bare = str(name).rpartition("::")[2]
    return bare if bare.startswith("_") or not bare.endswith("_") else bare[:-1]


def shapes_of(node: Node) -> list[tuple[int, ...]]:
    """The shapes of what a node returns; of its tensors only.

    Raises:
        CannotAlign: a size that depends on what a tensor holds.
    """
    found = node.meta.get("val")
    several = found if isinstance(found, tuple | list) else (found,)
    shapes = [tuple(each.shape) for each in several if isinstance(each, torch.Tensor)]
    if not all(isinstance(size, int) for shape in shapes for size in shape):
        raise CannotAlign(
            f"the model's operator {operator_name(node)} makes a tensor whose size depends on"
            " values, expected sizes that shapes alone decide; merge with align = 'none'"
        )
    return shapes


def axis(place: int, axes: int) -> int:
    """A dimension counted from the front."""
    return place if place >= 0 else place + axes


def broadcast(call: Call, values: Sequence[Value], shape: Sequence[int]) -> Value:
    """Tensors against each other, from the last axis on; axes that meet are equal."""
    found: list[Term | None] = [None] * len(shape)
    for value in values:
        for place, term in enumerate(value, len(shape) - len(value)):
            kept = found[place]
            if term.size != shape[place]:
                continue
            if kept is None:
                found[place] = term
            else:
                call.axes.equate(kept, term)
    sizes = zip(found, shape, strict=True)
    return tuple(call.axes.units(size) if term is None else term for term, size in sizes)


def one_or_several(made: list[Value]) -> Found:
    """What a call returns: a tensor as itself, several as a list."""
    return made if len(made) != 1 else made[0]
