"""The shape of an image, as tasks give it and as convolutions want it."""

from typing import NamedTuple

from torch import Tensor, nn

from weft.simulations.errors import BadOption


class ImageShape(NamedTuple):
    """What a convolution must know of its images."""

    channels: int
    height: int
    width: int


def image_shape(model: str, shape: tuple[int, ...], *, smallest: int = 1) -> ImageShape:
    """Read the shape of an example that must be an image.

    Args:
        model: stands in front of what is wrong.
        shape: (height, width) or (height, width, channels).
        smallest: of either side, in pixels.

    Raises:
        BadOption: no image, or one that is too small.
    """
    if len(shape) not in (2, 3):
        raise BadOption(
            f"model {model!r} wants images; these examples have shape {shape}; try 'mlp'"
        )
    found = ImageShape(shape[2] if len(shape) == 3 else 1, shape[0], shape[1])
    if min(found.height, found.width) < smallest:
        raise BadOption(
            f"model {model!r} wants images of at least {smallest} x {smallest}; "
            f"these are {found.height} x {found.width}; try 'cnn'"
        )
    return found


class ChannelsFirst(nn.Module):
    """(n, height, width[, channels]) -> (n, channels, height, width)."""

    def forward(self, images: Tensor) -> Tensor:
        """The images as convolutions want them."""
        return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)


class GlobalAverage(nn.Module):
    """(n, channels, height, width) -> (n, channels): the mean over the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """The mean over the pixels."""
        return images.mean(dim=(2, 3))


def convolution(channels: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """Three by three, as large as its input over the stride, for a BatchNorm to follow."""
    return nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
