"""Plain convolutional nets with BatchNorm, whose running statistics a merge must re-estimate."""

from torch import nn

from weft.simulations.tasks.models.images import (
    ChannelsFirst,
    GlobalAverage,
    convolution,
    image_shape,
)

POOL = 0
VGG11 = (1, POOL, 2, POOL, 4, 4, POOL, 8, 8, POOL, 8, 8)
"""Multiples of the width, and where images are halved."""
SMALLEST = 16
"""Pixels a side, which four halvings leave one of."""


def cnn(shape: tuple[int, ...], classes: int, *, width: int = 16) -> nn.Module:
    """Two convolutions and a linear layer: the smallest net with BatchNorm that learns well.

    Args:
        shape: of one image.
        classes: outputs.
        width: channels of the first convolution; the second has twice as many.

    Raises:
        BadOption: examples that are no images.
    """
    return nn.Sequential(
        ChannelsFirst(),
        convolution(image_shape("cnn", shape).channels, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        convolution(width, 2 * width),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 16, classes),
    )


def vgg(shape: tuple[int, ...], classes: int, *, width: int = 64) -> nn.Module:
    """VGG-11 for small images: its eight convolutions, with BatchNorm.

    Args:
        shape: of one image, at least 16 x 16.
        classes: outputs.
        width: channels of the first convolution; the last ones have eight times as many.

    Raises:
        BadOption: examples that are no images, or too small ones.

    Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for
        Large-Scale Image Recognition", table 1, column A; but that the last
        pooling and the three linear layers, made for 224 x 224, give way to a
        mean over the pixels and one linear layer, and that BatchNorm is added.
    """
    channels = image_shape("vgg", shape, smallest=SMALLEST).channels
    parts: list[nn.Module] = [ChannelsFirst()]
    for multiple in VGG11:
        if multiple == POOL:
            parts.append(nn.MaxPool2d(2))
            continue
        outputs = multiple * width
        parts += [convolution(channels, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*parts, GlobalAverage(), nn.Linear(channels, classes))
