"""Operators of images that random networks can draw, with what they count."""

import torch
from torch import Tensor
from torch.nn import functional

from tests.merging.alignment.drawn import (
    Draft,
    Step,
    channel_linear,
    channel_map,
)
from tests.merging.alignment.drawn_layers import plain_residual


def grouped(draft: Draft) -> None:
    draft.into_groups()
    outside, groups = draft.width(), draft.groups
    turned_round = draft.random.random() < 0.5
    inside = draft.stream.width
    shape = (inside, outside // groups) if turned_round else (outside, inside // groups)
    weight, shift = draft.weight(*shape, 1, 1), draft.weight(outside)
    convolve = functional.conv_transpose2d if turned_round else functional.conv2d
    draft.add(lambda value: convolve(value, weight(), shift(), groups=groups))
    draft.units += outside
    draft.became(outside, cut=True)


def grouped_residual(draft: Draft) -> None:
    """Groups from a stream to itself: the weight has the units within groups twice."""
    draft.into_groups()
    width, groups = draft.stream.width, draft.groups
    weight = draft.weight(width, width // groups, 3, 3)
    draft.add(
        lambda value: value + functional.conv2d(value, weight(), padding=1, groups=groups).tanh()
    )


def shuffled(draft: Draft) -> None:
    """Groups, channels that change theirs, groups again."""
    draft.into_groups()
    groups, outside = draft.groups, draft.width()
    wide = groups**2
    one = draft.weight(wide, draft.stream.width // groups, 1, 1)
    other = draft.weight(outside, groups, 1, 1)

    def step(value: Tensor) -> Tensor:
        inner = functional.conv2d(value, one(), groups=groups)
        inner = torch.unflatten(inner, 1, (groups, groups)).transpose(1, 2).flatten(1, 2)
        return functional.conv2d(functional.relu(inner), other(), groups=groups)

    draft.add(step)
    # Which one it is in its first group is which group it is in next.
    draft.units += groups + outside
    draft.became(outside, cut=True)


def by_channel(draft: Draft) -> None:
    """Each channel by itself."""
    width = draft.stream.width
    weight = draft.weight(width, 1, 3, 3)
    draft.add(lambda value: functional.conv2d(value, weight(), padding=1, groups=width))


def multiplied_by_channel(draft: Draft) -> None:
    """Two channels of each, then a layer."""
    width, outside = draft.stream.width, draft.width()
    weight, leave = draft.weight(2 * width, 1, 3, 3), channel_map(draft, 2 * width, outside)
    draft.add(
        lambda value: leave(functional.conv2d(value, weight(), padding=1, groups=width).relu())
    )
    draft.units += 2 * width + outside
    draft.became(outside)


def enlarged(draft: Draft) -> None:
    outside = draft.width()
    weight = draft.weight(draft.stream.width, outside, 2, 2)
    draft.add(lambda value: functional.conv_transpose2d(value, weight(), stride=2).relu())
    draft.units += outside
    draft.side *= 2
    draft.became(outside)


def finer(draft: Draft) -> None:
    """Channels that become places."""
    outside = draft.width()
    layer = channel_map(draft, draft.stream.width, 4 * outside)
    draft.add(lambda value: functional.pixel_shuffle(layer(value), 2))
    draft.units += outside
    draft.side *= 2
    draft.became(outside)


def upsampled(draft: Draft) -> None:
    draft.add(lambda value: functional.interpolate(value, scale_factor=2.0))
    draft.side *= 2


def pooled(draft: Draft) -> None:
    pool: Step = draft.random.choice(
        (
            lambda value: functional.max_pool2d(value, 2),
            lambda value: functional.avg_pool2d(value, 2),
            lambda value: functional.adaptive_avg_pool2d(value, value.shape[-1] // 2),
        )
    )
    draft.add(pool)
    draft.side //= 2


def squeezed(draft: Draft) -> None:
    """Channels weighed by what all places say."""
    inner, width = draft.width(), draft.stream.width
    one, other = channel_linear(draft, width, inner), channel_linear(draft, inner, width)

    def step(value: Tensor) -> Tensor:
        weights = other(functional.relu(one(value.mean((2, 3)))))
        return value * torch.sigmoid(weights)[:, :, None, None]

    draft.add(step)
    draft.units += inner


def channels_last(draft: Draft) -> None:
    """By channel, then by place with the channels last."""
    hidden, width = draft.width(), draft.stream.width
    weight, gain = draft.weight(width, 1, 3, 3), draft.weight(width)
    up, down = channel_linear(draft, width, hidden), channel_linear(draft, hidden, width)

    def body(value: Tensor) -> Tensor:
        last = functional.conv2d(value, weight(), padding=1, groups=width).permute(0, 2, 3, 1)
        last = functional.layer_norm(last, (width,))
        return (gain() * down(functional.gelu(up(last)))).permute(0, 3, 1, 2)

    plain_residual(draft, body, hidden)
