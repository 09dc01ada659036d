"""Operators that random networks can draw wherever the channels are, with what they count."""

import torch
from torch import Tensor
from torch.nn import functional

from tests.merging.alignment.drawn import (
    Draft,
    Step,
    channel_map,
)


def along(draft: Draft) -> int:
    """Where the channels are."""
    return 1 if draft.kind == "image" else -1


def flat_width(draft: Draft) -> int:
    """Of the axis that holds the channels."""
    return draft.stream.width * draft.stream.places


def deeper(draft: Draft) -> None:
    outside, act = draft.width(), draft.activation()
    layer = channel_map(draft, flat_width(draft), outside, draft.random.choice((1, 3)))
    draft.add(lambda value: act(layer(value)))
    draft.units += outside
    draft.became(outside)


def residual(draft: Draft) -> None:
    hidden, act = draft.width(), draft.activation()
    up, down = (
        channel_map(draft, *sizes)
        for sizes in ((flat_width(draft), hidden), (hidden, flat_width(draft)))
    )
    plain_residual(draft, lambda value: down(act(up(value))), hidden)


def plain_residual(draft: Draft, body: Step, hidden: int) -> None:
    draft.add(lambda value: value + body(value))
    draft.units += hidden


def one_layer_residual(draft: Draft) -> None:
    """A layer from a stream to itself: it has the stream's units twice."""
    width, act = draft.stream.width, draft.activation()
    layer = channel_map(draft, width, width)
    draft.add(lambda value: value + act(layer(value)))


def gated(draft: Draft) -> None:
    """Two layers whose outputs are multiplied; or one whose halves are."""
    hidden, width, act = draft.width(), flat_width(draft), draft.activation()
    at, down = along(draft), channel_map(draft, hidden, width)
    way = draft.random.choice(("two", "halves", "glu"))
    if way == "two":
        one, other = (channel_map(draft, width, hidden) for _ in range(2))
        body: Step = lambda value: down(act(one(value)) * other(value))  # noqa: E731
    else:
        both = channel_map(draft, width, 2 * hidden)
        body = lambda value: down(halves(both(value), way, at, act))  # noqa: E731
    plain_residual(draft, body, hidden)


def halves(value: Tensor, way: str, at: int, act: Step) -> Tensor:
    if way == "glu":
        return functional.glu(value, dim=at)
    one, other = value.chunk(2, dim=at)
    return act(one) * other


def concatenated(draft: Draft) -> None:
    more, act, at = draft.width(), draft.activation(), along(draft)
    layer = channel_map(draft, draft.stream.width, more)
    draft.add(lambda value: torch.cat([value, act(layer(value))], dim=at))
    draft.units += more
    draft.became(draft.stream.width + more, joined=True)


def told_apart(draft: Draft) -> None:
    """Two halves of one layer go two ways, and come together one after the other."""
    half, at = draft.width(), along(draft)
    layer = channel_map(draft, draft.stream.width, 2 * half)

    def step(value: Tensor) -> Tensor:
        one, other = torch.split(layer(value), half, dim=at)
        return torch.cat([torch.tanh(one), functional.relu(other)], dim=at)

    draft.add(step)
    draft.units += 2 * half
    draft.became(2 * half, joined=True)


def tied(draft: Draft) -> None:
    """One layer twice: what it makes is what it reads."""
    hidden = draft.width()
    enter, leave = (
        channel_map(draft, *sizes)
        for sizes in ((draft.stream.width, hidden), (hidden, draft.stream.width))
    )
    again = channel_map(draft, hidden, hidden)
    plain_residual(
        draft, lambda value: leave(torch.tanh(again(torch.tanh(again(enter(value)))))), hidden
    )


def scaled(draft: Draft) -> None:
    """A scale and a shift for each channel, or a place for each place."""
    shape: tuple[int, ...] = (
        (draft.stream.width, 1, 1) if draft.kind == "image" else (draft.stream.width,)
    )
    if draft.kind == "sequence" and draft.random.random() < 0.5:
        shape = (draft.side, draft.stream.width)
    scale, shift = draft.weight(*shape, around=1.0), draft.weight(*shape)
    draft.add(lambda value: torch.addcmul(shift(), value, scale()))


def squashed(draft: Draft) -> None:
    """PReLU with a slope for each channel, and dropout that does nothing."""
    slopes, at = draft.weight(draft.stream.width), along(draft)

    def step(value: Tensor) -> Tensor:
        moved = value.movedim(at, 1)
        return functional.dropout(functional.prelu(moved, slopes()).movedim(1, at), 0.3, False)

    draft.add(step)


# Normalisations.


def batch_normed(draft: Draft) -> None:
    width, at = flat_width(draft), along(draft)
    mean, variance = draft.buffer(width), draft.buffer(width)
    scale, shift = draft.weight(width, around=1.0), draft.weight(width)
    draft.add(
        lambda value: functional.batch_norm(
            value.movedim(at, 1), mean(), variance(), scale(), shift()
        ).movedim(1, at)
    )


def layer_normed(draft: Draft) -> None:
    width, at, root = flat_width(draft), along(draft), draft.random.random() < 0.5
    # The shift of an RMSNorm is read by nothing: it counts for nothing.
    scale, shift = draft.weight(width, around=1.0), draft.weight(width)

    def step(value: Tensor) -> Tensor:
        last = value.movedim(at, -1)
        if root:
            return functional.rms_norm(last, (width,), scale(), 1e-5).movedim(-1, at)
        return functional.layer_norm(last, (width,), scale(), shift()).movedim(-1, at)

    draft.add(step)


def group_normed(draft: Draft) -> None:
    draft.into_groups()
    width, at, groups = draft.stream.width, along(draft), draft.groups
    scale, shift = draft.weight(width, around=1.0), draft.weight(width)
    draft.add(
        lambda value: functional.group_norm(value.movedim(at, 1), groups, scale(), shift()).movedim(
            1, at
        )
    )
