"""The multi-layer perceptron."""

from itertools import pairwise

import torch
from torch import nn


def mlp(shape: tuple[int, ...], classes: int, *, hidden: int = 128, layers: int = 1) -> nn.Module:
    """Hidden layers with ReLU, for examples of any shape.

    Args:
        shape: of one example, which is flattened.
        classes: outputs.
        hidden: units of a hidden layer.
        layers: hidden layers.
    """
    widths = [int(torch.Size(shape).numel()), *[hidden] * layers]
    parts: list[nn.Module] = [nn.Flatten()]
    for width, after in pairwise(widths):
        parts += [nn.Linear(width, after), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], classes))
