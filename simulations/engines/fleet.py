"""Models of virtual nodes as rows of a matrix.

>>> layout = Layout.of(nn.Linear(3, 2).named_parameters())
>>> layout.size, layout.names
(8, ('weight', 'bias'))
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from weft.simulations.errors import BadModel


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of a model lies in one vector.

    Attributes:
        names: of the tensors, in the model's order.
        shapes: of each.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> "Layout":
        """Of named tensors, float32 all of them.

        Raises:
            BadModel: a tensor of another dtype; names it.
        """
        kept = dict(tensors)
        for name, tensor in kept.items():
            if tensor.dtype is not torch.float32:
                raise BadModel(f"{name}: found {tensor.dtype}, expected torch.float32")
        return cls(tuple(kept), tuple(tuple(tensor.shape) for tensor in kept.values()))

    @property
    def size(self) -> int:
        """Elements of a vector."""
        return sum(prod(shape) for shape in self.shapes)

    def views(self, vectors: Tensor) -> dict[str, Tensor]:
        """The tensors of a vector (size,), or of many (..., size), as views."""
        return dict(self._cut(vectors))

    def vector(self, tensors: dict[str, Tensor]) -> Tensor:
        """(size,) float32: the tensors one after the other."""
        if not self.names:
            return torch.zeros(0)
        return torch.cat([tensors[name].detach().reshape(-1).float() for name in self.names])

    def _cut(self, vectors: Tensor) -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + prod(shape)
            yield name, vectors[..., start:stop].view(*vectors.shape[:-1], *shape)
            start = stop


def parameters_of(model: nn.Module) -> Layout:
    """What is trained and mixed; a tied parameter once."""
    return Layout.of(model.named_parameters())


def statistics_of(model: nn.Module) -> Layout:
    """Floating buffers: running statistics, which stay with their node and are never mixed."""
    return Layout.of(
        (name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fleet:
    """The models of some nodes, one row each.

    Attributes:
        nodes: whose rows these are: all nodes of a study, or a rank's block.
        parameters: (len(nodes), P) float32, changed in place.
        statistics: (len(nodes), S) float32, changed in place; S is 0 for a model without.
    """

    nodes: range
    parameters: Tensor
    statistics: Tensor

    @classmethod
    def of(cls, models: Iterable[nn.Module], nodes: range) -> "Fleet":
        """Every node starts from a model of its own; one of them is looked at at a time."""
        states = [[layout.vector(_state(model)) for layout in _layouts(model)] for model in models]
        parameters, statistics = (torch.stack(rows) for rows in zip(*states, strict=True))
        return cls(nodes=nodes, parameters=parameters, statistics=statistics)

    def to(self, device: torch.device | str) -> "Fleet":
        """The rows on a device."""
        return Fleet(
            nodes=self.nodes,
            parameters=self.parameters.to(device),
            statistics=self.statistics.to(device),
        )

    @classmethod
    def alike(cls, model: nn.Module, nodes: range) -> "Fleet":
        """Every node starts from one model."""
        rows = [layout.vector(_state(model)) for layout in _layouts(model)]
        parameters, statistics = (row.repeat(len(nodes), 1) for row in rows)
        return cls(nodes=nodes, parameters=parameters, statistics=statistics)


def bind(model: nn.Module, parameters: Tensor, statistics: Tensor) -> None:
    """Let a model live in two vectors: what trains it changes them, nothing is copied."""
    with torch.no_grad():
        for name, view in parameters_of(model).views(parameters).items():
            model.get_parameter(name).data = view
        for name, view in statistics_of(model).views(statistics).items():
            model.get_buffer(name).data = view


def _layouts(model: nn.Module) -> tuple[Layout, Layout]:
    return parameters_of(model), statistics_of(model)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
