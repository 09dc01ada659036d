"""A model traced to a graph of operators, and the terms of all its tensors' axes.

The graph is torch.export's, of operators alone: no module's class and no name of a layer
says anything here. An operator that has no rule keeps what it reads and makes in order.
"""

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import Node

from weft.merging.alignment import layer_rules, shape_rules, value_rules
from weft.merging.alignment.axes import Axes
from weft.merging.alignment.calls import (
    Call,
    Found,
    Rule,
    Value,
    one_or_several,
    shapes_of,
)
from weft.merging.errors import CannotAlign

RULES: Final[Mapping[str, Rule]] = {
    **value_rules.RULES,
    **shape_rules.RULES,
    **layer_rules.RULES,
}
SILENT: Final = frozenset({"_assert_tensor_metadata", "_assert_async", "sym_constrain_range"})
"""They return nothing."""
INPUT: Final = "an axis of the model's inputs"
OUTPUT: Final = "an axis of the model's outputs"
CONSTANT: Final = "an axis of a constant"
UNREAD: Final = "no operator reads it"
UNSAVED: Final = "an axis of a buffer that no file holds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A model's graph with what lies along its axes.

    Attributes:
        program: what torch.export made of the model.
        axes: the terms.
        tensors: of parameters and buffers, by name; a tied one has all its names.
        values: of every node of the graph.
        met: axes that operators read side by side; see `Call`.
        tied: for each further name of a tensor its first one.
        unruled: operators without a rule, by name.
    """

    program: ExportedProgram
    axes: Axes
    tensors: Mapping[str, Value]
    values: Mapping[Node, Found]
    met: Sequence[Value]
    tied: Mapping[str, str]
    unruled: frozenset[str]


def trace(model: nn.Module, inputs: Sequence[Tensor], keywords: Mapping[str, Tensor]) -> Traced:
    """Trace a model, in evaluation mode, on example inputs.

    Args:
        model: any module that torch.export can trace; left in the mode it was in.
        inputs: its arguments; only shapes and dtypes matter.
        keywords: those by name.

    Raises:
        CannotAlign: torch.export cannot trace it; says why.
    """
    training = model.training
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Recurrent layers note their weights in a list, which is none of a merge's business.
            warnings.filterwarnings("ignore", ".*were assigned during export", UserWarning)
            program = torch.export.export(model.eval(), tuple(inputs), dict(keywords))
    except Exception as error:
        raise CannotAlign(
            f"{type(model).__name__} cannot be traced by torch.export: {_reason(error)};"
            " mend its forward, or merge with align = 'none'"
        ) from error
    finally:
        model.train(training)
    return walk(program, tied_names(model))


def _reason(error: Exception) -> str:
    """The first line of an error of torch.export, and the line of the model that it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].strip("'\".") if lines else type(error).__name__
    places = [place for place, line in enumerate(lines) if line.startswith("File ")]
    return f"{reason}, at {': '.join(lines[places[-1] :][:2])}" if places else reason


def fed(program: ExportedProgram) -> frozenset[Node]:
    """The nodes that depend on what a model is called with: no weights in another shape."""
    called = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    found: set[Node] = set()
    for node in program.graph.nodes:
        if node.name in called or any(each in found for each in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def tied_names(model: nn.Module) -> Mapping[str, str]:
    """For each further name of a tied parameter or buffer, its first one."""
    first: dict[int, str] = {}
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    owners = [(name, first.setdefault(id(tensor), name)) for name, tensor in named]
    return {name: owner for name, owner in owners if name != owner}


def walk(program: ExportedProgram, tied: Mapping[str, str]) -> Traced:
    """Give every tensor of a graph its terms.

    Args:
        program: the graph.
        tied: names of one tensor, see `tied_names`.
    """
    axes, values = Axes(), dict[Node, Found]()
    tensors: dict[str, Value] = {}
    met: list[Value] = []
    unruled: set[str] = set()
    shared = {*tied, *tied.values()}
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = kinds[node.name]
            unread = not node.users and spec.target not in shared
            values[node] = _new(axes, node, UNREAD if unread else _pinned(spec))
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
                tensors[spec.target] = values[node]  # type: ignore[assignment]
        elif node.op == "call_function":
            values[node] = _called(Call(node, axes, values, met), unruled)
        elif node.op == "output":
            for each in node.all_input_nodes:
                _pin(axes, values.get(each, ()), OUTPUT)
        else:
            values[node] = _new(axes, node, f"made by {node.op}")
    for name, owner in tied.items():
        for one, other in zip(tensors.get(name, ()), tensors.get(owner, ()), strict=False):
            axes.equate(one, other)
    return Traced(
        program=program,
        axes=axes,
        tensors=tensors,
        values=values,
        met=met,
        tied=tied,
        unruled=frozenset(unruled),
    )


def _pinned(spec: InputSpec) -> str:
    """Why the axes of what a graph is given stay in order; empty for what a file holds."""
    if spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent):
        return ""
    if spec.kind is InputKind.BUFFER:
        return UNSAVED
    return INPUT if spec.kind is InputKind.USER_INPUT else CONSTANT


def _called(call: Call, unruled: set[str]) -> Found:
    if call.node.target is operator.getitem:
        source, place = call.node.args
        whole = call.known[source] if isinstance(source, Node) else ()
        return whole[place] if isinstance(whole, list) and isinstance(place, int) else whole
    name = call.operator
    if name in SILENT or not call.shapes:
        return ()
    rule = RULES.get(name)
    if rule is not None:
        return rule(call)
    unruled.add(name)
    for value in call.tensors():
        call.pin(value)
    return one_or_several([call.fresh(shape, f"made by {name}") for shape in call.shapes])


def _new(axes: Axes, node: Node, why: str) -> Value:
    shapes = shapes_of(node)
    return tuple(axes.units(size, why) for size in (shapes[0] if shapes else ()))


def _pin(axes: Axes, found: Found, why: str) -> None:
    for value in found if isinstance(found, list) else [found]:
        for term in value:
            axes.pin(term, why)
