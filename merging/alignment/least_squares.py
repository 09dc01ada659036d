"""Weights of a merged network that give what its units should be of what they read.

Where two aligned models are averaged, a unit no longer is the mean of the two units that it
was made of, because what it reads is not what either read. For linear layers and
convolutions the best weights are a least squares problem, layer by layer, whose normal
equations are added up over calibration data.

Source: Nasery et al. 2024, "PLeaS", section 3.2, there solved by gradient steps from the
    averaged weights; here in closed form, with a ridge that draws towards those weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from weft.merging.alignment.calls import Call, operator_name, shapes_of
from weft.merging.alignment.observation import Batch, values_of
from weft.merging.alignment.pleas import Partial
from weft.merging.alignment.powers import learnt_names
from weft.merging.alignment.tracing import Traced
from weft.merging.errors import BadOption, CannotAlign

ARGUMENTS: Final = ("input", "weight", "bias")
CHUNK: Final = 1 << 22
"""Numbers of unfolded inputs at a time."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A linear layer or a convolution without groups.

    Attributes:
        call: in the graph.
        source: of its inputs.
        weight, bias: names of its parameters; no bias: empty.
        kernel: of a convolution; of a linear layer nothing.
    """

    call: Call
    source: Node
    weight: str
    bias: str
    kernel: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal equations: (columns, columns) and (columns, rows), float64."""

    gram: Tensor
    cross: Tensor

    def plus(self, more: "Normal") -> "Normal":
        """Over the samples of both."""
        return Normal(self.gram + more.gram, self.cross + more.cross)


def refined(
    traced: Traced,
    partial: Partial,
    models: tuple[Tensors, Tensors],
    batches: Iterable[Batch],
    ridge: float = 1e-3,
) -> dict[str, Tensor]:
    """A merged network with the weights of its layers refitted.

    Layers of other kinds, and weights that several layers share with others, stay as the
    average has them.

    Args:
        traced: the graph of both models.
        partial: what is merged and what stays apart.
        models: parameters and buffers by name, of the anchor and of the other model, the
            latter in the anchor's order.
        batches: read once, of the shapes that were traced.
        ridge: the weight of staying near the average, in units of the mean square of a
            layer's inputs; above 0.

    Raises:
        BadOption: a ridge that is not above 0.
        CannotAlign: no batch.
    """
    if not ridge > 0:
        raise BadOption(f"ridge = {ridge}; expected a number above 0")
    merged = partial.applied(*models)
    layers = layers_of(traced)
    normal: dict[str, Normal] = {}
    for batch in batches:
        for layer, more in _equations(traced, partial, layers, models, batch):
            found = normal.get(layer.weight)
            normal[layer.weight] = more if found is None else found.plus(more)
    if layers and not normal:
        raise CannotAlign("least squares: found no calibration batch, expected one")
    for layer in {each.weight: each for each in layers.values()}.values():
        merged |= _solved(partial, layer, models, merged, normal[layer.weight], ridge)
    return merged


def layers_of(traced: Traced) -> dict[Node, Layer]:
    """The layers whose weights can be refitted."""
    nodes = (node for node in traced.program.graph.nodes if node.op == "call_function")
    found = ((node, _layer(traced, node)) for node in nodes)
    return {node: layer for node, layer in found if layer is not None}


def _layer(traced: Traced, node: Node) -> Layer | None:
    names = learnt_names(traced)
    call = Call(node, traced.axes, traced.values, [])
    if call.operator not in ("linear", "conv2d"):
        return None
    source, weight, bias = (call.given(n, name) for n, name in enumerate(ARGUMENTS))
    if not isinstance(weight, Node) or weight.name not in names or not _plain(call, weight):
        return None
    told = names.get(bias.name, "") if isinstance(bias, Node) else ""
    return Layer(
        call=call,
        source=source,
        weight=names[weight.name],
        bias=told,
        kernel=shapes_of(weight)[0][2:],
    )


def _plain(call: Call, weight: Node) -> bool:
    """No groups, padded with zeros by a number, and no other kind of reader of the weight."""
    alone = all(operator_name(user) == call.operator for user in weight.users)
    if call.operator == "linear":
        return alone
    padding = call.given(4, "padding", 0)
    return alone and call.given(6, "groups", 1) == 1 and not isinstance(padding, str)


def _equations(
    traced: Traced,
    partial: Partial,
    layers: Mapping[Node, Layer],
    models: tuple[Tensors, Tensors],
    batch: Batch,
) -> Iterator[tuple[Layer, Normal]]:
    """Of every layer, over one batch."""
    held: dict[Node, Tensor] = {}
    last = {layer.source: node for node, layer in layers.items()}
    for node, values in values_of(traced, models, batch):
        layout = traced.values[node]
        if isinstance(layout, list):
            continue
        if node in last:
            held[node] = partial.value(values[0], values[1], layout)
        if node in layers:
            layer = layers[node]
            wanted = partial.value(values[0], values[1], layout)
            yield layer, _normal(layer, held[layer.source], wanted)
            if last[layer.source] is node:
                del held[layer.source]


def _normal(layer: Layer, read: Tensor, wanted: Tensor) -> Normal:
    total: Normal | None = None
    for inputs, outputs in _samples(layer, read, wanted):
        columns, rows = inputs.double(), outputs.double()
        if layer.bias:
            columns = torch.cat([columns, columns.new_ones(len(columns), 1)], dim=1)
        more = Normal(columns.T @ columns, columns.T @ rows)
        total = more if total is None else total.plus(more)
    if total is None:
        raise CannotAlign(
            f"least squares: found an empty batch at {layer.weight}, expected samples"
        )
    return total


def _samples(layer: Layer, read: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(samples, columns) and (samples, rows), some samples at a time."""
    if layer.call.operator == "linear":
        yield read.flatten(0, -2), wanted.flatten(0, -2)
        return
    stride, padding, dilation = (
        layer.call.given(place, name, default)
        for place, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    size = read.shape[1] * prod(layer.kernel) * prod(wanted.shape[2:])
    for inputs, outputs in zip(
        *(torch.split(each, max(1, CHUNK // size)) for each in (read, wanted)), strict=True
    ):
        columns = functional.unfold(inputs, layer.kernel, dilation, padding, stride)
        yield (
            columns.transpose(1, 2).flatten(0, 1),
            outputs.flatten(2).transpose(1, 2).flatten(0, 1),
        )


def _solved(
    partial: Partial,
    layer: Layer,
    models: tuple[Tensors, Tensors],
    merged: Tensors,
    normal: Normal,
    ridge: float,
) -> dict[str, Tensor]:
    """New weight and bias; entries between apart units of two models stay zero."""
    weight = merged[layer.weight]
    before = weight.flatten(1).double()
    ones = torch.ones_like(models[0][layer.weight])
    open_ = partial.tensor(ones, ones, layer.weight).flatten(1) != 0
    if layer.bias:
        before = torch.cat([before, merged[layer.bias].double()[:, None]], dim=1)
        open_ = torch.cat([open_, torch.ones(len(open_), 1, dtype=torch.bool)], dim=1)
    found = _masked_ridge(normal, before, open_, ridge)
    columns = weight[0].numel()
    result = {layer.weight: found[:, :columns].reshape(weight.shape).to(weight)}
    if layer.bias:
        result[layer.bias] = found[:, columns].to(merged[layer.bias])
    return result


def _masked_ridge(normal: Normal, before: Tensor, open_: Tensor, ridge: float) -> Tensor:
    """(rows, columns): for all rows with the same open columns one system."""
    found = torch.zeros_like(before)
    weight = ridge * normal.gram.diagonal().mean()
    patterns, which = torch.unique(open_, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows, columns = which == number, pattern.nonzero()[:, 0]
        gram = normal.gram[columns][:, columns] + weight * torch.eye(len(columns)).double()
        wanted = normal.cross[columns][:, rows] + weight * before[rows][:, columns].T
        solution = torch.linalg.solve(gram, wanted).T
        found[rows] = found[rows].index_copy(1, columns, solution)
    return found
