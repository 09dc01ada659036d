"""Operators of sequences that random networks can draw, with what they count."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tests.merging.alignment.drawn import (
    Draft,
    Slot,
    channel_linear,
    whole_attention,
)
from tests.merging.alignment.drawn_layers import plain_residual
from tests.merging.alignment.zoo import turned


def attention(draft: Draft) -> None:
    """Heads; as many of keys and values, or fewer; perhaps normalised or turned by places."""
    heads, fewer, size = 4, draft.random.choice((1, 2, 4)), draft.random.choice((2, 4))
    extra = draft.random.choice(("", "normalised", "turned"))
    way = draft.random.choice(("fused", "rows", "interleaved", "repeated"))
    make = projections(draft, heads, fewer, size)
    scales = [draft.weight(size, around=1.0) for _ in range(2)] if extra == "normalised" else []
    out = channel_linear(draft, heads * size, draft.stream.width)

    def body(value: Tensor) -> Tensor:
        query, key, held = make(value)
        if scales:
            query, key = (
                functional.rms_norm(each, (size,), scale(), 1e-5)
                for each, scale in zip((query, key), scales, strict=True)
            )
        if extra == "turned":
            query, key = turned(query), turned(key)
        return out(whole_attention(query, key, held, way).transpose(1, 2).flatten(2))

    orders = {"": fewer * size, "normalised": size, "turned": 0}[extra] + fewer * size
    outer = (fewer if fewer > 1 else 0) + (heads if fewer < heads else 0)
    plain_residual(draft, body, outer + orders)


def projections(
    draft: Draft, heads: int, fewer: int, size: int
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Queries, keys and values (samples, heads, places, size): by three layers or by one."""
    width = draft.stream.width
    sizes = [heads * size, fewer * size, fewer * size]
    if draft.random.random() < 0.5:
        layers = [channel_linear(draft, width, each) for each in sizes]
        split: Callable[[Tensor], tuple[Tensor, ...]] = lambda value: tuple(  # noqa: E731
            layer(value) for layer in layers
        )
    else:
        packed = channel_linear(draft, width, sum(sizes))
        split = lambda value: torch.split(packed(value), sizes, dim=-1)  # noqa: E731
    return lambda value: tuple(
        torch.unflatten(each, -1, (-1, size)).transpose(1, 2) for each in split(value)
    )


def stacked_attention(draft: Draft) -> None:
    """Three in one, told apart by the outermost axis: the three share their orders."""
    heads, size, width = 4, draft.random.choice((2, 3)), draft.stream.width
    packed = channel_linear(draft, width, 3 * heads * size)
    out = channel_linear(draft, heads * size, width)

    def body(value: Tensor) -> Tensor:
        three = torch.unflatten(packed(value), -1, (3, heads, size)).permute(2, 0, 3, 1, 4)
        query, key, held = three.unbind(0)
        return out(whole_attention(query, key, held, "fused").transpose(1, 2).flatten(2))

    plain_residual(draft, body, heads + heads * size)


def over_places(draft: Draft) -> None:
    """A convolution over the places of a sequence."""
    width = draft.stream.width
    weight: Slot = draft.weight(width, width, 3)
    draft.add(
        lambda value: (
            value + functional.conv1d(value.transpose(1, 2), weight(), padding=1).transpose(1, 2)
        )
    )
