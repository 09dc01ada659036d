"""By which power of a unit's scale each tensor of a network is multiplied.

Let every unit of a group be scaled by some s. Each place where the group's units lie along
an axis of a value or of a weight is multiplied by a power of s, and operators relate the
powers: what relu returns has the power of what it was given, the columns of a linear layer
have the opposite power of its inputs, what a sigmoid is given has power zero. These are
linear equations in whole numbers; their solutions are all ways to scale units and leave the
function as it is.

With other laws for operators the same equations tell how a tensor has a group's units:
makers' rows go with them, readers' columns against them.

>>> equations = Equations()
>>> row, made, column = (Slot("layer", 0, place) for place in range(3))
>>> equations.add({row: 1, made: -1})
>>> equations.add({made: 1, column: 1})
>>> equations.roots([row, made, column])
[Slot(node='layer', output=0, place=0)]
>>> equations.power(column, row)
-1
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch.export.graph_signature import InputKind
from torch.fx import Node

from weft.merging.alignment.axes import Axes, Term, Units
from weft.merging.alignment.calls import Call, Value, operator_name
from weft.merging.alignment.tracing import Traced


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One place where a leaf lies along an axis of a value.

    Attributes:
        node: whose value it is.
        output: which of its values, where it returns several.
        place: of the leaf among all leaves of the value's axes, those of size one left out.
    """

    node: str
    output: int
    place: int


@dataclass(slots=True)
class Equations:
    """Linear equations between the powers of slots, solved as they come.

    A slot that no equation determines is a root: its power is free.
    """

    _known: dict[Slot, dict[Slot, int]] = field(default_factory=dict)
    _ages: dict[Slot, int] = field(default_factory=dict)

    def add(self, equation: Mapping[Slot, int]) -> None:
        """A sum of powers, each with a factor, that is zero.

        Where no power has a factor of one, all of them are made zero: fewer scales are
        found, never wrong ones.
        """
        for slot in equation:
            self._ages.setdefault(slot, len(self._ages))
        row = self._in_roots(equation)
        plain = [slot for slot, factor in row.items() if abs(factor) == 1]
        if not plain:
            self._known.update({slot: {} for slot in row})
            return
        # The youngest: what an operator returns is said by what it was given.
        chosen = max(plain, key=self._ages.__getitem__)
        sign = row.pop(chosen)
        self._known[chosen] = {slot: -sign * factor for slot, factor in row.items()}

    def equal(self, slots: Iterable[Slot]) -> None:
        """All have one power."""
        first, *others = slots
        self._ages.setdefault(first, len(self._ages))
        for other in others:
            if other != first:
                self.add({first: 1, other: -1})

    def zero(self, slots: Iterable[Slot]) -> None:
        """None is scaled."""
        for slot in slots:
            self.add({slot: 1})

    def roots(self, slots: Iterable[Slot]) -> list[Slot]:
        """What the powers of some slots depend on, in order."""
        return sorted({root for slot in slots for root in self._in_roots({slot: 1})})

    def power(self, slot: Slot, root: Slot) -> int:
        """Of a slot, where the root has power one and all other roots zero."""
        return self._in_roots({slot: 1}).get(root, 0)

    def _in_roots(self, row: Mapping[Slot, int]) -> dict[Slot, int]:
        found: dict[Slot, int] = {}
        for slot, factor in row.items():
            if slot in self._known:
                self._known[slot] = self._in_roots(self._known[slot])
            for root, share in self._known.get(slot, {slot: 1}).items():
                found[root] = found.get(root, 0) + factor * share
        return {root: factor for root, factor in found.items() if factor}


Along: TypeAlias = list[list[Slot]]
"""The slots of each axis of a value."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a graph, as the laws of operators see it."""

    call: Call
    equations: Equations
    leaves: dict[Slot, Units]

    def given(self, place: int, name: str = "") -> Along | None:
        """The slots of an argument that is a tensor; None where it is none."""
        found = self.call.given(place, name)
        return self.along(found) if isinstance(found, Node) else None

    def every(self) -> list[Along]:
        """The slots of all arguments that are tensors."""
        return [each for node in self.call.node.all_input_nodes for each in self._outputs(node)]

    def made(self) -> Along:
        """The slots of what it returns; of its first value."""
        return self.along(self.call.node)

    def all_made(self) -> list[Along]:
        """The slots of all that it returns."""
        return self._outputs(self.call.node)

    def along(self, node: Node, output: int = 0) -> Along:
        """The slots of one value of a node."""
        found = self.call.known.get(node, ())
        value = found[output] if isinstance(found, list) else found
        axes: Along = []
        place = 0
        for term in value:
            leaves = occurrences(self.call.axes, term)
            axes.append([Slot(node.name, output, place + n) for n in range(len(leaves))])
            self.leaves.update(zip(axes[-1], leaves, strict=True))
            place += len(leaves)
        return axes

    def _outputs(self, node: Node) -> list[Along]:
        found = self.call.known.get(node, ())
        count = len(found) if isinstance(found, list) else 1
        return [self.along(node, output) for output in range(count)]


Law: TypeAlias = Callable[[Step], None]
"""What an operator says of powers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Powers:
    """The powers of all slots of a graph.

    Attributes:
        equations: between them, all that there are.
        slots: of each leaf, those of tensors and those of values.
        tensors: for the node of a parameter or buffer its name.
    """

    equations: Equations
    slots: Mapping[Units, Sequence[Slot]]
    tensors: Mapping[str, str]

    def of(self, leaf: Units, root: Slot) -> dict[Slot, int]:
        """What has a power other than zero, where a root has power one."""
        powers = {slot: self.equations.power(slot, root) for slot in self.slots[leaf]}
        return {slot: power for slot, power in powers.items() if power}

    def roots(self, leaf: Units) -> list[Slot]:
        """The independent ways to scale a leaf's units."""
        return self.equations.roots(self.slots.get(leaf, ()))


def powers_of(traced: Traced, laws: Mapping[str, Law], otherwise: Law) -> Powers:
    """Write down and solve the equations of a graph.

    Args:
        traced: the graph with its terms, all of them known.
        laws: by operator.
        otherwise: of an operator that is not among them.
    """
    equations, leaves = Equations(), dict[Slot, Units]()
    for node in traced.program.graph.nodes:
        step = Step(Call(node, traced.axes, traced.values, []), equations, leaves)
        for along in step.all_made():
            for slots in along:
                for slot in slots:
                    equations.equal([slot])
        if node.op == "call_function" and node.target is operator.getitem:
            _pick(step)
        elif node.op == "call_function":
            (laws.get(operator_name(node), otherwise) if _is_real(node) else otherwise)(step)
    names = learnt_names(traced)
    _tie(traced, names, equations)
    by_leaf: dict[Units, list[Slot]] = {}
    for slot, leaf in leaves.items():
        by_leaf.setdefault(leaf, []).append(slot)
    return Powers(equations=equations, slots=by_leaf, tensors=names)


def occurrences(axes: Axes, term: Term) -> list[Units]:
    """The leaves of a term from left to right, those of size one left out."""
    return [leaf for leaf in axes.leaves(term) if leaf.size != 1]


def slots_of(axes: Axes, node: str, value: Value) -> Iterator[tuple[Slot, Units]]:
    """The slots of a tensor with their leaves, from left to right."""
    leaves = (leaf for term in value for leaf in occurrences(axes, term))
    return ((Slot(node, 0, place), leaf) for place, leaf in enumerate(leaves))


def _pick(step: Step) -> None:
    """One of several values that a call returns."""
    source, output = step.call.node.args
    if isinstance(source, Node) and isinstance(output, int):
        for one, other in zip(step.along(source, output), step.made(), strict=True):
            for mine, theirs in zip(one, other, strict=True):
                step.equations.equal([mine, theirs])


def _is_real(node: Node) -> bool:
    """Whether it returns numbers that can be scaled: not indices, nor truths."""
    found = node.meta.get("val")
    first = found[0] if isinstance(found, list | tuple) and found else found
    return isinstance(first, torch.Tensor) and first.is_floating_point()


def learnt_names(traced: Traced) -> dict[str, str]:
    """For the node of each parameter and buffer its name, a tied one's first."""
    learnt = (InputKind.PARAMETER, InputKind.BUFFER)
    return {
        spec.arg.name: traced.tied.get(spec.target, spec.target)
        for spec in traced.program.graph_signature.input_specs
        if spec.kind in learnt and spec.target is not None
    }


def _tie(traced: Traced, names: Mapping[str, str], equations: Equations) -> None:
    """All names of one tensor have its powers."""
    first: dict[str, str] = {}
    for node, name in names.items():
        owner = first.setdefault(name, node)
        for slot, _ in slots_of(traced.axes, node, traced.tensors[name]):
            equations.equal([Slot(owner, 0, slot.place), slot])
