"""The residual net of twenty layers for small images."""

from torch import Tensor, nn

from weft.simulations.tasks.models.images import (
    ChannelsFirst,
    GlobalAverage,
    convolution,
    image_shape,
)

STAGES = 3
BLOCKS = 3
"""Of a stage; 6n + 2 layers with n = 3."""


def resnet20(shape: tuple[int, ...], classes: int, *, width: int = 16) -> nn.Module:
    """ResNet-20 as for CIFAR: three stages of three blocks, shortcuts without parameters.

    Args:
        shape: of one image.
        classes: outputs.
        width: channels of the first stage; each stage doubles them and halves the image.

    Raises:
        BadOption: examples that are no images.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition",
        section 4.2, shortcuts of option A; weights by torch's usual draw.
    """
    channels = image_shape("resnet20", shape).channels
    parts: list[nn.Module] = [
        ChannelsFirst(),
        convolution(channels, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(STAGES):
        outputs = width * 2**stage
        for block in range(BLOCKS):
            parts.append(Residual(inputs, outputs, stride=2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*parts, GlobalAverage(), nn.Linear(inputs, classes))


class Residual(nn.Module):
    """Two convolutions beside a shortcut.

    Where the block halves the image, the shortcut takes every other pixel and
    pads the channels that are new with zeros.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, outputs - inputs
        self.inner = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up."""
        short = images[:, :, :: self.stride, :: self.stride]
        if self.added:
            short = nn.functional.pad(short, (0, 0, 0, 0, self.added // 2, -(-self.added // 2)))
        return nn.functional.relu(self.inner(images) + short)
