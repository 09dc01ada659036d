"""Where tensors stand in a model's depth, read from their names.

The rule. A tensor belongs to a block if a component of its dotted name is a number, or
ends in `layer_` or `block_` and a number (torchvision's `encoder_layer_3`). What stands
before the number names the stack: `model.layers.12.mlp` is number 12 of the stack
`model.layers`. The first number counts: `layers.3.experts.7` is in block 3. A number
that never changes, as in `0.auto_model.encoder.layer.3`, wraps a model and tells no
depth; the next one is tried.

Within its stack a block's index is its place among the numbers that occur there, from
zero, so stacks that begin at 1 or that leave numbers out (`features.0`, `features.3`)
come right. The count is that of the longest stack. Models with several stacks, such as
encoder and decoder, have an index in each; so do the four of a ResNet (`layer1.0` to
`layer4.2`): there the index tells the depth within a stage only.

>>> found = layers(["wte.weight", "h.0.ln.weight", "h.1.ln.weight", "h.2.ln.weight"])
>>> found["h.1.ln.weight"]
Layer(index=1, count=3)
>>> found["wte.weight"]
Layer(index=None, count=3)
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from weft.merging.facts import Layer

Place = tuple[str, int]
"""A stack's name and a number in it."""

_NUMBERED = re.compile(r"(\w*(?:layer|block)s?_)?([0-9]+)")


def layers(names: Iterable[str]) -> dict[str, Layer]:
    """The place in depth of each tensor of a model.

    Args:
        names: of all tensors of the model; those of a part of it give the depth within
            that part.
    """
    places = {name: list(_places(name)) for name in names}
    numbers: dict[str, set[int]] = defaultdict(set)
    for found in places.values():
        for stack, number in found:
            numbers[stack].add(number)
    indices = {
        stack: {number: index for index, number in enumerate(sorted(held))}
        for stack, held in numbers.items()
        if len(held) > 1
    }
    firsts = {name: _first(found, indices) for name, found in places.items()}
    count = max((len(indices[place[0]]) for place in firsts.values() if place), default=0)
    return {
        name: Layer(index=indices[place[0]][place[1]] if place else None, count=count)
        for name, place in firsts.items()
    }


def _places(name: str) -> Iterator[Place]:
    components = name.split(".")
    for depth, component in enumerate(components):
        match = _NUMBERED.fullmatch(component)
        if match:
            yield ".".join([*components[:depth], match[1] or ""]), int(match[2])


def _first(places: Iterable[Place], stacks: Mapping[str, object]) -> Place | None:
    return next((place for place in places if place[0] in stacks), None)
