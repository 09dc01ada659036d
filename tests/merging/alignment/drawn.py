"""Random networks that know how many of their units can be put in another order.

A draft draws operators one after the other. Each adds its tensors, under names that say
nothing, to one flat module, a step to what that computes, and to the count what it adds to
the units that can be permuted: told from the operator alone, not from any graph.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from string import ascii_lowercase

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.merging.alignment.zoo import repeated

Step = Callable[[Tensor], Tensor]
Slot = Callable[[], Tensor]

ACTIVATIONS: tuple[Step, ...] = (
    functional.relu, functional.gelu, functional.silu, torch.tanh, functional.hardswish,
    functional.leaky_relu, torch.sigmoid, functional.elu,
)  # fmt: skip


class Drawn(nn.Module):
    """One tensor in, one out; all parameters in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def forward(self, value: Tensor) -> Tensor:
        for step in self.steps:
            value = step(value)
        return value


@dataclass(slots=True)
class Stream:
    """The channels that the next operator reads.

    Attributes:
        width: how many.
        cut: whether some operator has put them into groups.
        joined: whether they are pieces one after the other, which no group may straddle.
        places: how many places flattening put within each channel.
    """

    width: int
    cut: bool = False
    joined: bool = False
    places: int = 1


@dataclass(slots=True)
class Draft:
    """A network while it is being drawn.

    Attributes:
        kind: what the value is: image (batch, channels, side, side), sequence (batch, places,
            channels) or vector (batch, channels).
        units: how many can be put in another order, so far.
        side: of an image; how many places a sequence has.
        groups: of everything that is put into groups.
        told: the operators that were drawn.
        table: of words, where the network begins with one, and the stream that it gives.
    """

    seed: int
    random: Random = field(init=False)
    network: Drawn = field(init=False)
    kind: str = ""
    side: int = 4
    stream: Stream = field(default_factory=lambda: Stream(0))
    units: int = 0
    groups: int = 2
    told: list[str] = field(default_factory=list)
    table: Slot | None = None
    embedded: Stream | None = None

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.random, self.network = Random(self.seed), Drawn().double()
        self.groups = self.random.choice((2, 4))

    def weight(self, *shape: int, around: float = 0.0) -> Slot:
        """A new parameter; drawn so that sums over its later axes stay of size one."""
        fan = max(torch.Size(shape[1:]).numel(), 1) if len(shape) > 1 else 4
        name = self._name()
        drawn = around + torch.randn(shape, dtype=torch.float64) / fan**0.5
        self.network.register_parameter(name, nn.Parameter(drawn))
        return partial(getattr, self.network, name)

    def buffer(self, *shape: int) -> Slot:
        """A new buffer with positive values."""
        name = self._name()
        self.network.register_buffer(name, 0.5 + torch.rand(shape, dtype=torch.float64))
        return partial(getattr, self.network, name)

    def _name(self) -> str:
        while hasattr(self.network, name := "".join(self.random.choices(ascii_lowercase, k=6))):
            continue
        return name

    def width(self) -> int:
        """Of new channels; groups of them have two units at least."""
        return self.random.choice((8, 12, 16))

    def activation(self) -> Step:
        """Any of them."""
        return self.random.choice(ACTIVATIONS)

    def add(self, step: Step) -> None:
        """One step more."""
        self.network.steps.append(step)

    def became(self, width: int, *, cut: bool = False, joined: bool = False) -> None:
        """The next operator reads other channels."""
        self.stream = Stream(width, cut, joined)

    def into_groups(self) -> None:
        """The stream's channels are in groups from here on, and were all the time."""
        if not self.stream.cut:
            self.stream.cut = True
            self.units += self.groups


def channel_linear(draft: Draft, inside: int, outside: int, *, bias: bool = True) -> Step:
    """A linear map of channels wherever they are, written in one of many ways."""
    weight = draft.weight(outside, inside)
    shift = draft.weight(outside) if bias else None
    way = draft.random.choice(("linear", "matmul", "einsum", "addmm", "T"))

    def step(value: Tensor) -> Tensor:
        added = 0 if shift is None else shift()
        if way == "matmul":
            return value @ weight().transpose(0, 1) + added
        if way == "T":
            return value.matmul(weight().T) + added
        if way == "einsum":
            letters = "abcdefg"[: value.dim() - 1]
            return torch.einsum(f"{letters}i,oi->{letters}o", value, weight()) + added
        if way == "addmm" and shift is not None:
            flat = torch.addmm(shift(), value.reshape(-1, inside), weight().t())
            return flat.view(*value.shape[:-1], outside)
        return functional.linear(value, weight(), None if shift is None else shift())

    return step


def channel_map(draft: Draft, inside: int, outside: int, side: int = 1) -> Step:
    """A linear map of channels: a convolution of an image, anything else by its last axis."""
    if draft.kind != "image":
        return channel_linear(draft, inside, outside)
    weight, shift = draft.weight(outside, inside, side, side), draft.weight(outside)
    return lambda value: functional.conv2d(value, weight(), shift(), padding=side // 2)


def whole_attention(query: Tensor, key: Tensor, value: Tensor, way: str) -> Tensor:
    """Attention of (batch, heads, places, size), with fewer heads of keys, in several ways."""
    times = query.shape[1] // key.shape[1]
    if way == "fused":
        return functional.scaled_dot_product_attention(query, key, value, enable_gqa=times > 1)
    if way == "rows" and times > 1:
        rows = torch.unflatten(query, 1, (key.shape[1], times))
        scores = rows @ key.unsqueeze(2).mT / key.shape[-1] ** 0.5
        return torch.flatten(scores.softmax(-1) @ value.unsqueeze(2), 1, 2)
    if times > 1 and way == "interleaved":
        key, value = (each.repeat_interleave(times, dim=1) for each in (key, value))
    elif times > 1:
        key, value = repeated(key, times), repeated(value, times)
    scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5
    return torch.matmul(scores.softmax(-1), value)
