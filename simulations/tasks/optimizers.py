"""SGD with momentum and Adam, through the functional forms that torch.optim is built on.

The classes of torch.optim load torch's compiler when the first one is built:
1.7 seconds of CPU time in every training process, which is most of what a node
of a demo computes. The arithmetic is torch's own here as there.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from weft.simulations.errors import BadOption

Slots = dict[str, dict[str, Tensor]]
"""State by kind ("momentum", "exp_avg", ...), then by the parameter's name."""


class Optimizer(Protocol):
    """Steps a model's parameters from their gradients."""

    slots: Slots

    def step(self, lr: float) -> None:
        """Take one step; the gradients are used up."""
        ...


def build_optimizer(name: str, model: nn.Module, slots: Slots, *, momentum: float) -> Optimizer:
    """An optimizer of a model.

    Args:
        name: "sgd" or "adam".
        model: its parameters are changed in place by `step`.
        slots: the state to go on with; empty for a new optimizer. Copied.
        momentum: of "sgd".

    Raises:
        BadOption: no optimizer of that name.
    """
    parameters = dict(model.named_parameters())
    moved = {
        kind: {
            key: tensor.detach().to(parameters[key].device, copy=True)
            for key, tensor in kept.items()
        }
        for kind, kept in slots.items()
    }
    if name == "sgd":
        return Sgd(parameters, moved, momentum)
    if name == "adam":
        return Adam(parameters, moved)
    raise BadOption(f"no optimizer {name!r}; known are sgd and adam")


class Sgd:
    """Stochastic gradient descent with momentum; the first step sets the momentum."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], slots: Slots, momentum: float
    ) -> None:
        self.slots = slots
        self._parameters, self._momentum = parameters, momentum

    def step(self, lr: float) -> None:
        """Take one step."""
        kept = self.slots.setdefault("momentum", {})
        buffers = [kept.get(name) for name in self._parameters]
        with torch.no_grad():
            sgd(
                list(self._parameters.values()),
                _gradients(self._parameters),
                buffers,
                foreach=False,
                weight_decay=0.0,
                momentum=self._momentum,
                lr=lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        names = zip(self._parameters, buffers, strict=True)
        kept.update({name: buffer for name, buffer in names if buffer is not None})


class Adam:
    """Adam with torch's usual constants."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], slots: Slots) -> None:
        self.slots = slots
        self._parameters = parameters
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            kept = slots.setdefault(kind, {})
            for name, parameter in parameters.items():
                kept.setdefault(name, _zero(kind, parameter))

    def step(self, lr: float) -> None:
        """Take one step."""
        kept = {
            kind: [self.slots[kind][name] for name in self._parameters]
            for kind in ("exp_avg", "exp_avg_sq", "step")
        }
        with torch.no_grad():
            adam(
                list(self._parameters.values()),
                _gradients(self._parameters),
                kept["exp_avg"],
                kept["exp_avg_sq"],
                [],
                kept["step"],
                foreach=False,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )


def _zero(kind: str, parameter: nn.Parameter) -> Tensor:
    return torch.zeros(()) if kind == "step" else torch.zeros_like(parameter)


def _gradients(parameters: Mapping[str, nn.Parameter]) -> list[Tensor]:
    """The gradients, taken off the parameters; zero where there is none."""
    taken = []
    for parameter in parameters.values():
        gradient = parameter.grad
        taken.append(torch.zeros_like(parameter) if gradient is None else gradient)
        parameter.grad = None
    return taken
