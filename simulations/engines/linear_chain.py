"""Nets of linear layers and ReLUs, of several nodes at once, by hand.

The gradient of such a net is a few matrix products. Written out, those of some nodes are
batched products over their rows, and the product that makes a weight's gradient can add
it to a momentum on its way: nothing is left of autograd's costs, which are a third of a
small net's step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear map, and whether a ReLU follows it.

    Attributes:
        weight: name of the (out, in) parameter.
        bias: name of the (out,) parameter; None without one.
        rectified: whether a ReLU follows.
    """

    weight: str
    bias: str | None
    rectified: bool


class Update(Protocol):
    """Takes a stack's gradients in the form in which they come, and steps at once."""

    def weight(self, name: str, errors: Tensor, inputs: Tensor) -> None:
        """Step by errors^T @ inputs; (k, batch, out) and (k, batch, in)."""
        ...

    def bias(self, name: str, errors: Tensor) -> None:
        """Step by the sum of errors (k, batch, out) over the batch."""
        ...


def linear_chain(model: nn.Module) -> tuple[LinearLayer, ...] | None:
    """The layers of a net that flattens its input and then is linear layers and ReLUs.

    None where it is anything else, or a parameter has two places in it.
    """
    layers: list[LinearLayer] = []
    for name, module in model.named_children() if isinstance(model, nn.Sequential) else ():
        # A subclass may compute anything; the exact types are known.
        if type(module) is nn.Linear:
            bias = None if module.bias is None else f"{name}.bias"
            layers.append(LinearLayer(f"{name}.weight", bias, rectified=False))
        elif type(module) is nn.ReLU and layers and not layers[-1].rectified:
            layers[-1] = LinearLayer(layers[-1].weight, layers[-1].bias, rectified=True)
        elif not (type(module) is nn.Flatten and _whole(module) and not layers):
            return None
    named = [name for layer in layers for name in (layer.weight, layer.bias) if name]
    plain = bool(layers) and not layers[-1].rectified
    return tuple(layers) if plain and named == list(dict(model.named_parameters())) else None


def forward(
    layers: tuple[LinearLayer, ...], parameters: Mapping[str, Tensor], inputs: Tensor
) -> list[Tensor]:
    """What goes into each layer, and last what comes out.

    Args:
        layers: of the net.
        parameters: by name, (k, out, in) or (k, out): those of k nodes.
        inputs: (k, batch, features).
    """
    flowing = [inputs]
    for layer in layers:
        weight = parameters[layer.weight].transpose(1, 2)
        if layer.bias is None:
            found = torch.bmm(flowing[-1], weight)
        else:
            found = torch.baddbmm(parameters[layer.bias].unsqueeze(1), flowing[-1], weight)
        flowing.append(found.relu_() if layer.rectified else found)
    return flowing


def step(
    layers: tuple[LinearLayer, ...],
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    update: Update,
) -> Tensor:
    """One step of k nodes on the mean cross entropy of their batches.

    Args:
        layers: of the net.
        parameters: by name, (k, out, in) or (k, out); `update` changes them.
        inputs: (k, batch, features).
        labels: (k, batch) int64.
        update: the optimizer.

    Returns:
        (k,) the losses before the step.
    """
    flowing = forward(layers, parameters, inputs)
    losses, errors = _cross_entropy(flowing[-1], labels)
    for place in reversed(range(len(layers))):
        layer, entering = layers[place], flowing[place]
        below = torch.bmm(errors, parameters[layer.weight]) if place else errors
        update.weight(layer.weight, errors, entering)
        if layer.bias is not None:
            update.bias(layer.bias, errors)
        # What a ReLU let through is positive, and what goes into this layer came from one.
        through_relu = place > 0 and layers[place - 1].rectified
        errors = torch.ops.aten.threshold_backward(below, entering, 0) if through_relu else below
    return losses


def _cross_entropy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean losses (k,), and their gradients (k, batch, classes)."""
    logs = functional.log_softmax(outputs, dim=2)
    places = labels.unsqueeze(2)
    losses = -logs.gather(2, places).squeeze(2).mean(dim=1)
    errors = logs.exp_()
    errors.scatter_add_(2, places, errors.new_full((), -1.0).expand(places.shape))
    return losses, errors.div_(outputs.shape[1])


def _whole(flatten: nn.Flatten) -> bool:
    return flatten.start_dim == 1 and flatten.end_dim == -1
