"""The two small models of the classification task.

Their parameters come from torch's generator as the caller seeded it.
"""

import torch
from torch import Tensor, nn

from weft.simulations.errors import BadOption

HIDDEN = 128
CHANNELS = 16


def build_model(name: str, *, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model for examples of one shape.

    Args:
        name: "mlp", one hidden layer; or "cnn", two convolutions with
            BatchNorm, whose running statistics a merge must re-estimate.
        shape: of one example: (features,), (height, width) or (height, width,
            channels).
        classes: outputs.

    Raises:
        BadOption: an unknown name, or a cnn for examples that are no images.
    """
    if name == "mlp":
        features = int(torch.Size(shape).numel())
        return nn.Sequential(
            nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
        )
    if name != "cnn":
        raise BadOption(f"no model {name!r}; known are mlp and cnn")
    if len(shape) < 2:
        raise BadOption(f"model 'cnn' wants images; these examples have shape {shape}; try 'mlp'")
    return _cnn(channels=shape[2] if len(shape) == 3 else 1, classes=classes)


class ChannelsFirst(nn.Module):
    """(n, height, width[, channels]) -> (n, channels, height, width)."""

    def forward(self, images: Tensor) -> Tensor:
        """The images as convolutions want them."""
        return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)


def _cnn(*, channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        ChannelsFirst(),
        nn.Conv2d(channels, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * CHANNELS),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * CHANNELS * 16, classes),
    )
