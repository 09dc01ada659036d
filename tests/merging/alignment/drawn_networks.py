"""Random networks: a beginning, three to six operators, an ending."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tests.merging.alignment.drawn import (
    Draft,
    channel_linear,
    channel_map,
)
from tests.merging.alignment.drawn_images import (
    by_channel,
    channels_last,
    enlarged,
    finer,
    grouped,
    grouped_residual,
    multiplied_by_channel,
    pooled,
    shuffled,
    squeezed,
    upsampled,
)
from tests.merging.alignment.drawn_layers import (
    batch_normed,
    concatenated,
    deeper,
    flat_width,
    gated,
    group_normed,
    layer_normed,
    one_layer_residual,
    residual,
    scaled,
    squashed,
    tied,
    told_apart,
)
from tests.merging.alignment.drawn_sequences import attention, over_places, stacked_attention

Operator = Callable[[Draft], None]


SAMPLES, PLACES, WORDS, CLASSES = 3, 5, 7, 3


# What a network begins with.


def begin_image(draft: Draft) -> Tensor:
    draft.kind, width = "image", draft.width()
    draft.add(channel_map(draft, 3, width, 3))
    draft.units += width
    draft.became(width)
    return torch.randn(SAMPLES, 3, draft.side, draft.side, dtype=torch.float64)


def begin_words(draft: Draft) -> Tensor:
    draft.kind, width = "sequence", draft.width()
    table = draft.weight(WORDS, width)
    draft.add(lambda words: functional.embedding(words, table()))
    draft.units += width
    draft.became(width)
    draft.table, draft.embedded = table, draft.stream
    return torch.randint(0, WORDS, (SAMPLES, PLACES))


def begin_vector(draft: Draft) -> Tensor:
    draft.kind, width = draft.random.choice(("vector", "sequence")), draft.width()
    draft.add(channel_linear(draft, 6, width))
    draft.units += width
    draft.became(width)
    shape = (SAMPLES, 6) if draft.kind == "vector" else (SAMPLES, PLACES, 6)
    return torch.randn(shape, dtype=torch.float64)


# From one kind to another.


def to_sequence(draft: Draft) -> None:
    draft.add(lambda value: value.flatten(2).transpose(1, 2))
    draft.kind, draft.side = "sequence", draft.side**2


def to_vector(draft: Draft) -> None:
    image = draft.kind == "image"
    places = draft.side**2 if image else draft.side
    way = draft.random.choice(("mean", "flat", "largest", "first"))
    over = (2, 3) if image else (1,)
    if way == "flat":
        draft.add(lambda value: value.flatten(1))
        draft.stream.places = places
    elif way == "largest":
        draft.add(lambda value: value.amax(over))
    elif way == "first" and not image:
        draft.add(lambda value: value.max(dim=1).values + value[:, 0])
    else:
        draft.add(lambda value: value.mean(over))
    draft.kind = "vector"


def ending(draft: Draft) -> None:
    """Classes of each sample or of each place; of words by their own table."""
    if draft.table is not None and draft.stream is draft.embedded and draft.stream.places == 1:
        table = draft.table
        return draft.add(lambda value: functional.linear(value, table()))
    return draft.add(channel_map(draft, flat_width(draft), CLASSES))


ANY: tuple[Operator, ...] = (
    deeper, residual, gated, batch_normed, layer_normed,
)  # fmt: skip
UNLESS_FLAT: tuple[Operator, ...] = (
    one_layer_residual, concatenated, told_apart, tied, scaled, squashed,
)  # fmt: skip
UNLESS_JOINED: dict[str, tuple[Operator, ...]] = {
    "image": (group_normed, grouped, grouped_residual, shuffled),
    "sequence": (group_normed,),
    "vector": (group_normed,),
}
OF_KIND: dict[str, tuple[Operator, ...]] = {
    "image": (by_channel, multiplied_by_channel, squeezed, channels_last),
    "sequence": (attention, attention, stacked_attention, over_places),
    "vector": (),
}
FINER: tuple[Operator, ...] = (enlarged, finer, upsampled)
ONWARD: dict[str, tuple[Operator, ...]] = {
    "image": (to_sequence, to_vector), "sequence": (to_vector,), "vector": (),
}  # fmt: skip
BEGINNINGS = (begin_image, begin_image, begin_words, begin_vector)


def fitting(draft: Draft) -> list[Operator]:
    """What can be drawn next."""
    if draft.stream.places > 1:
        return list(ANY)
    found = [*ANY, *UNLESS_FLAT, *OF_KIND[draft.kind], *ONWARD[draft.kind]]
    if not draft.stream.joined:
        found += UNLESS_JOINED[draft.kind]
    if draft.kind == "image":
        found += FINER if draft.side <= 4 else (pooled,)
    return found


def drawn(seed: int) -> tuple[Draft, Tensor]:
    """A network of three to six operators, and inputs for it."""
    draft = Draft(seed)
    inputs = draft.random.choice(BEGINNINGS)(draft)
    if draft.kind == "sequence":
        draft.side = PLACES
    for _ in range(draft.random.randint(3, 6)):
        operator = draft.random.choice(fitting(draft))
        draft.told.append(operator.__name__)
        operator(draft)
    ending(draft)
    draft.network.eval()
    return draft, inputs


BY_KIND = (UNLESS_JOINED, OF_KIND, ONWARD)
OPERATORS = {each.__name__ for each in (*ANY, *UNLESS_FLAT, *FINER, pooled)} | {
    each.__name__ for table in BY_KIND for operators in table.values() for each in operators
}
"""The names of all that can be drawn."""
