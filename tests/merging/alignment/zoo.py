"""Small networks of every kind, written as users write them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.merging.alignment.groups import Groups
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.tracing import Traced, trace

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """A network with inputs, and how many of its units can be put in another order."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    units: int


class Residual(nn.Module):
    """Two convolutions with BatchNorm and an addition; a third one where the width changes."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(outside)
        self.two = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm_two = nn.BatchNorm2d(outside)
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu(self.norm_one(self.one(images)))
        return functional.relu_(self.skip(images) + self.norm_two(self.two(inner)))


class Bottleneck(nn.Module):
    """As in a ResNet-50."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images + self.body(images))


class Separable(nn.Module):
    """As in a MobileNet: a convolution by channel between two by place."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, inner, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.deep = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.narrow = nn.Conv2d(inner, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu6(self.norm(self.wide(images)))
        result: Tensor = images + self.narrow(functional.hardswish(self.deep(inner)))
        return result


class Attention(nn.Module):
    """Heads of queries, perhaps fewer of keys and values; perhaps turned by their place."""

    def __init__(self, width: int, heads: int, fewer: int, *, turned: bool = False) -> None:
        super().__init__()
        self.heads, self.fewer, self.turned = heads, fewer, turned
        size = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, fewer * size, bias=False)
        self.value = nn.Linear(width, fewer * size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, places, width = hidden.shape
        size = width // self.heads
        query = self.query(hidden).view(batch, places, self.heads, size).transpose(1, 2)
        key = self.key(hidden).view(batch, places, self.fewer, size).transpose(1, 2)
        value = self.value(hidden).view(batch, places, self.fewer, size).transpose(1, 2)
        if self.turned:
            query, key = turned(query), turned(key)
        if self.fewer != self.heads:
            key, value = (repeated(each, self.heads // self.fewer) for each in (key, value))
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: Tensor = self.out(found.transpose(1, 2).reshape(batch, places, width))
        return result


class DecoderBlock(nn.Module):
    """As in LLaMA: RMSNorm, attention turned by places, a gated net."""

    def __init__(self, width: int, heads: int, fewer: int) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, fewer, turned=True)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.first(hidden))
        seen = self.second(hidden)
        result: Tensor = hidden + self.down(functional.silu(self.gate(seen)) * self.up(seen))
        return result


class Decoder(nn.Module):
    """A language model; its last layer is its table of words, or not."""

    def __init__(self, *, tied: bool, fewer: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 24)
        self.blocks = nn.ModuleList([DecoderBlock(24, 4, fewer) for _ in range(2)])
        self.last = nn.RMSNorm(24)
        self.out = nn.Linear(24, 11, bias=False)
        if tied:
            self.out.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.words(words)
        for block in self.blocks:
            hidden = block(hidden)
        result: Tensor = self.out(self.last(hidden))
        return result


class Encoder(nn.Module):
    """As BERT: words, places and a norm; queries, keys and values; a mask; a mean at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 24), nn.Embedding(6, 24)
        self.norm = nn.LayerNorm(24)
        self.query, self.key, self.value, self.dense = (nn.Linear(24, 24) for _ in range(4))
        self.after = nn.LayerNorm(24)
        self.up, self.down, self.end = nn.Linear(24, 48), nn.Linear(48, 24), nn.LayerNorm(24)
        self.out = nn.Linear(24, 3)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        hidden = self.norm(self.words(words) + self.places(torch.arange(words.shape[1])))
        parts = [each(hidden).unflatten(-1, (4, 6)).permute(0, 2, 1, 3)
                 for each in (self.query, self.key, self.value)]  # fmt: skip
        scores = parts[0] @ parts[1].transpose(-1, -2) / 6**0.5
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e4)
        seen = (scores.softmax(-1) @ parts[2]).transpose(1, 2).flatten(2)
        hidden = self.after(hidden + self.dense(seen))
        hidden = self.end(hidden + self.down(functional.gelu(self.up(hidden))))
        weights = mask.unsqueeze(-1).float()
        result: Tensor = self.out((hidden * weights).sum(1) / weights.sum(1))
        return result


class Patches(nn.Module):
    """As a ViT: patches by a convolution, a token for the class, one weight for all three."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 24))
        self.places = nn.Parameter(torch.randn(1, 5, 24))
        self.norm, self.second = nn.LayerNorm(24), nn.LayerNorm(24)
        self.three, self.dense = nn.Linear(24, 72), nn.Linear(24, 24)
        self.net = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Dropout(), nn.Linear(48, 24))
        self.out = nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.patches(images).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.token.expand(len(hidden), -1, -1), hidden], 1) + self.places
        three = self.three(self.norm(hidden)).reshape(len(hidden), 5, 3, 4, 6)
        query, key, value = three.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.dense(seen.transpose(1, 2).flatten(2))
        result: Tensor = self.out((hidden + self.net(self.second(hidden)))[:, 0])
        return result


class Unet(nn.Module):
    """Down and up again, with what was there before beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.join = nn.Conv2d(11, 7, 3, padding=1)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        wide = functional.relu(self.enter(images))
        deep = functional.silu(self.norm(self.down(wide)))
        both = torch.cat([functional.relu(self.up(deep)), wide], dim=1)
        result: Tensor = self.out(functional.leaky_relu(self.join(both)))
        return result


def turned(hidden: Tensor) -> Tensor:
    """Rotary places: pairs of units are turned together."""
    places, half = hidden.shape[-2], hidden.shape[-1] // 2
    angles = torch.outer(torch.arange(places), 1 / 100 ** (torch.arange(half) / half))
    cos, sin = (torch.cat([each(angles)] * 2, -1) for each in (torch.cos, torch.sin))
    swapped = torch.cat([-hidden[..., half:], hidden[..., :half]], -1)
    return hidden * cos + swapped * sin


def repeated(heads: Tensor, times: int) -> Tensor:
    """(batch, heads, places, size): every head so many times in a row."""
    batch, count, places, size = heads.shape
    wide = heads[:, :, None].expand(batch, count, times, places, size)
    return wide.reshape(batch, count * times, places, size)


def resnet(width: int, blocks: int) -> nn.Module:
    """As the ResNets for small images: three stages, widths doubled."""
    widths = (width, 2 * width, 4 * width)
    stages: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
    before = width
    for each in widths:
        for _ in range(blocks):
            stages.append(Residual(before, each))
            before = each
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 4))


def vgg() -> nn.Module:
    """Convolutions, pools, and two linear layers on what is left of the image."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 4, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 4),
    )  # fmt: skip


def images(count: int = 3, side: int = 8) -> Inputs:
    return (torch.randn(count, 3, side, side),)


def words(count: int = 3, places: int = 5) -> Inputs:
    return (torch.randint(0, 11, (count, places)),)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    )


ZOO: Mapping[str, Exhibit] = {
    "mlp": Exhibit(build=mlp, inputs=lambda: (torch.randn(5, 3, 4),), units=9 + 7),
    "cnn": Exhibit(build=vgg, inputs=images, units=6 + 8 + 10),
    # A stream a stage; inside of each block its own units.
    "resnet-20": Exhibit(
        build=lambda: resnet(4, 3), inputs=images, units=(4 + 8 + 16) + 3 * (4 + 8 + 16)
    ),
    "resnet-50": Exhibit(
        build=lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), Bottleneck(8, 4), Bottleneck(8, 4), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(32, 4),
        ),
        inputs=images, units=8 + 2 * (4 + 4),
    ),
    "mobilenet": Exhibit(
        build=lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), Separable(8, 16), Separable(8, 16), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 4),
        ),
        inputs=images, units=8 + 16 + 16,
    ),
    "vit": Exhibit(
        # The stream, four heads, six units in each head that are alike for queries, keys and
        # values because one axis tells the three apart, and the net.
        build=Patches, inputs=images, units=24 + 4 + 4 * 6 + 48,
    ),
    "bert": Exhibit(
        build=Encoder, inputs=lambda: (*words(places=6), torch.ones(3, 6)),
        # Within each head one order of queries and keys, and another one of values.
        units=24 + 4 + 4 * 6 + 4 * 6 + 48,
    ),
    "llama": Exhibit(
        build=lambda: Decoder(tied=False), inputs=words,
        # A block: two heads of keys, two of queries for each of them, six units of values in
        # each; those of queries and keys are turned by their places and fixed.
        units=24 + 2 * (2 + 2 * 2 + 2 * 6 + 48),
    ),
    "llama, tied": Exhibit(
        build=lambda: Decoder(tied=True, fewer=4), inputs=words, units=24 + 2 * (4 + 4 * 6 + 48)
    ),
    "u-net": Exhibit(build=Unet, inputs=images, units=6 + 2 + 2 * 4 + 5 + 7),
}  # fmt: skip


def prepared(model: nn.Module) -> nn.Module:
    """Every parameter and statistic at random, so that no two units are alike."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / max(weight[0].numel(), 1) ** 0.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                low = 0.5 if name.endswith("var") else -0.5
                buffer.copy_(torch.rand_like(buffer) + low)
    return model.eval()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, a tied one once, and buffers; copies."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


@cache
def shown(name: str) -> tuple[nn.Module, Inputs, Traced]:
    """An exhibit, its inputs and its trace, made once; not to be changed."""
    torch.manual_seed(0)
    exhibit = ZOO[name]
    model, inputs = prepared(exhibit.build()), exhibit.inputs()
    return model, inputs, trace(model, inputs, {})


def shuffled(groups: Groups, seed: int) -> Permutation:
    """Every group in a random order."""
    generator = torch.Generator().manual_seed(seed)
    orders = {}
    for group in groups.groups:
        rows = group.units // group.size
        drawn = [torch.randperm(group.size, generator=generator) for _ in range(rows)]
        orders[group] = torch.stack(drawn).reshape(*group.orders, group.size)
    return Permutation(groups, orders)
