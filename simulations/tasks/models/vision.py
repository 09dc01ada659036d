"""The vision transformer, tiny."""

import torch
from torch import Tensor, nn

from weft.simulations.errors import BadOption
from weft.simulations.tasks.models.attention import encoder
from weft.simulations.tasks.models.images import ChannelsFirst, ImageShape, image_shape

POSITION_SCALE = 0.02


def vit_tiny(
    shape: tuple[int, ...],
    classes: int,
    *,
    patch: int = 4,
    depth: int = 4,
    width: int = 64,
    heads: int = 4,
) -> nn.Module:
    """A vision transformer of about 200,000 parameters, with LayerNorm and without dropout.

    Args:
        shape: of one image, whose sides are multiples of the patch.
        classes: outputs.
        patch: pixels of a side of a patch.
        depth: blocks.
        width: of a token.
        heads: of an attention; they divide the width.

    Raises:
        BadOption: examples that are no images, or cannot be cut into patches.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section
        3.1; but the mean over the tokens in place of a class token (Beyer et
        al. 2022, "Better plain ViT baselines for ImageNet-1k").
    """
    image = image_shape("vit_tiny", shape)
    if image.height % patch or image.width % patch:
        raise BadOption(
            f"model 'vit_tiny': images of {image.height} x {image.width} cannot be cut into "
            f"patches of {patch} x {patch}; choose a patch that divides both sides"
        )
    return VisionTransformer(image, classes, patch=patch, depth=depth, width=width, heads=heads)


class VisionTransformer(nn.Module):
    """Patches as tokens, blocks of attention, the tokens' mean into a linear layer."""

    def __init__(
        self, image: ImageShape, classes: int, *, patch: int, depth: int, width: int, heads: int
    ) -> None:
        super().__init__()
        tokens = (image.height // patch) * (image.width // patch)
        self.channels_first = ChannelsFirst()
        self.patches = nn.Conv2d(image.channels, width, patch, stride=patch)
        self.positions = nn.Parameter(POSITION_SCALE * torch.randn(tokens, width))
        self.encoder = encoder(width=width, depth=depth, heads=heads, causal=False)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, height, width[, channels]) -> (n, classes)."""
        tokens = self.patches(self.channels_first(images)).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens + self.positions).mean(dim=1))  # type: ignore[no-any-return]
