"""Residual nets for small images."""

from torch import Tensor, nn

from weft.simulations.tasks.models.images import (
    ChannelsFirst,
    GlobalAverage,
    convolution,
    image_shape,
)


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
    return _residual(channels, classes, width, stages=3, blocks=3, projects=False)


def resnet18(shape: tuple[int, ...], classes: int, *, width: int = 64) -> nn.Module:
    """ResNet-18 for small images: four stages of two blocks, shortcuts that project.

    Args:
        shape: of one image.
        classes: outputs.
        width: channels of the first stage; each stage doubles them and halves the image.

    Raises:
        BadOption: examples that are no images.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1,
        shortcuts of option B; as usual for images of 32 pixels with a first convolution
        three wide, without stride and pooling; weights by torch's usual draw.
    """
    channels = image_shape("resnet18", shape).channels
    return _residual(channels, classes, width, stages=4, blocks=2, projects=True)


def _residual(
    channels: int, classes: int, width: int, *, stages: int, blocks: int, projects: bool
) -> nn.Module:
    parts: list[nn.Module] = [
        ChannelsFirst(),
        convolution(channels, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(stages):
        outputs = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            parts.append(Residual(inputs, outputs, stride=stride, projects=projects))
            inputs = outputs
    return nn.Sequential(*parts, GlobalAverage(), nn.Linear(inputs, classes))


class Residual(nn.Module):
    """Two convolutions beside a shortcut.

    Where the block halves the image, the shortcut takes every other pixel and pads the
    channels that are new with zeros; or, where it projects, is a convolution one wide.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, projects: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        if projects and inputs != outputs:
            self.short: nn.Module = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        else:
            self.short = Shortcut(outputs - inputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up."""
        return nn.functional.relu(self.inner(images) + self.short(images))


class Shortcut(nn.Module):
    """Every so-many-th pixel, and zeros in the channels that are new."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, channels + added, h / stride, w / stride), rounded up."""
        short = images[:, :, :: self.stride, :: self.stride]
        if self.added:
            short = nn.functional.pad(short, (0, 0, 0, 0, self.added // 2, -(-self.added // 2)))
        return short
