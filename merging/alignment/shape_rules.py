"""Rules of operators that only move, cut, join and repeat."""

from typing import Final

from weft.merging.alignment.axes import Product, Sum, Term
from weft.merging.alignment.calls import Call, Rule, Value, axis, broadcast


def reshaped(call: Call) -> Value:
    """All axes as one product, taken apart again at the new sizes."""
    return call.axes.factored(Product(call.first()), call.shape)


def permuted(call: Call) -> Value:
    """The axes in another order."""
    value = call.first()
    places = call.given(1, "dims")
    return tuple(value[axis(place, len(value))] for place in places)


def transposed(call: Call) -> Value:
    """Two axes change places."""
    value = list(call.first())
    if len(value) > 1:
        one = axis(call.given(1, "dim0", 0), len(value))
        other = axis(call.given(2, "dim1", 1), len(value))
        value[one], value[other] = value[other], value[one]
    return tuple(value)


def reversed_axes(call: Call) -> Value:
    """All axes, the last one first."""
    return call.first()[::-1]


def turned_over(call: Call) -> Value:
    """The last two axes change places."""
    value = call.first()
    return (*value[:-2], *value[-2:][::-1])


def moved(call: Call) -> Value:
    """Some axes to other places."""
    value = call.first()
    sources, targets = (
        [axis(each, len(value)) for each in (given if isinstance(given, list | tuple) else [given])]
        for given in (call.given(1, "source"), call.given(2, "destination"))
    )
    rest = [term for place, term in enumerate(value) if place not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        rest.insert(target, value[source])
    return tuple(rest)


def unsqueezed(call: Call) -> Value:
    """An axis of one unit more."""
    value = list(call.first())
    value.insert(axis(call.given(1, "dim"), len(value) + 1), call.axes.units(1))
    return tuple(value)


def squeezed(call: Call) -> Value:
    """Axes of one unit less: those that are named, or all."""
    value, given = call.first(), call.given(1, "dim")
    named = range(len(value)) if given is None else given if isinstance(given, list) else [given]
    places = {axis(place, len(value)) for place in named}
    return tuple(term for place, term in enumerate(value) if place not in places or term.size != 1)


def expanded(call: Call) -> Value:
    """One unit stands for many, which are all alike: any order of them is the same."""
    value, shape = call.first(), call.shape
    padded = (*call.fresh(shape[: len(shape) - len(value)]), *value)
    return tuple(
        term if term.size == size else call.axes.units(size)
        for term, size in zip(padded, shape, strict=True)
    )


def tiled(call: Call) -> Value:
    """The whole axis again and again."""
    value, shape = call.first(), call.shape
    padded = (*call.fresh([1] * (len(shape) - len(value))), *value)
    return tuple(
        term if term.size == size else Product((call.axes.units(size // term.size), term))
        for term, size in zip(padded, shape, strict=True)
    )


def interleaved(call: Call) -> Value:
    """Each unit again and again."""
    value, place = list(call.first()), call.given(2, "dim")
    times = call.given(1, "repeats")
    if place is None or not isinstance(times, int):
        call.pin(value)
        return call.fresh(call.shape, f"made by {call.operator}")
    at = axis(place, len(value))
    value[at] = Product((value[at], call.axes.units(times)))
    return tuple(value)


def joined(call: Call) -> Value:
    """One after the other along an axis; alike along the others."""
    values = [value for value in call.listed(0, "tensors") if value]
    at = axis(call.given(1, "dim", 0), len(values[0]))
    for other in values[1:]:
        _equate_but(call, values[0], other, at)
    along = Sum(tuple(value[at] for value in values))
    return tuple(along if place == at else term for place, term in enumerate(values[0]))


def stacked(call: Call) -> Value:
    """A new axis, along which everything is told apart."""
    values = call.listed(0, "tensors")
    for other in values[1:]:
        _equate_but(call, values[0], other, -1)
    found = list(values[0])
    new = call.axes.units(len(values), "stacked in order")
    found.insert(axis(call.given(1, "dim", 0), len(found) + 1), new)
    return tuple(found)


def cut(call: Call) -> list[Value]:
    """Pieces of an axis: split and chunk."""
    value = call.first()
    at = axis(call.given(2, "dim", 0), len(value))
    pieces = call.axes.cut(value[at], [shape[at] for shape in call.shapes])
    return [_with(value, at, piece) for piece in pieces]


def sliced(call: Call) -> Value:
    """One piece of an axis; every other unit of it is read in order."""
    value = call.first()
    at = axis(call.given(1, "dim", 0), len(value))
    term, size = value[at], call.shape[at]
    start = min(_from_front(call.given(2, "start") or 0, term.size), term.size)
    if call.given(4, "step", 1) != 1:
        call.pin([term])
        return _with(value, at, call.axes.units(size, f"made by {call.operator}"))
    if size == term.size:
        return value
    return _with(value, at, call.axes.cut(term, (start, size, term.size - start - size))[1])


def narrowed(call: Call) -> Value:
    """A piece, given by its start and its length."""
    value = call.first()
    at, start = axis(call.given(1, "dim"), len(value)), call.given(2, "start")
    size, term = call.shape[at], value[at]
    start = _from_front(start, term.size)
    return _with(value, at, call.axes.cut(term, (start, size, term.size - start - size))[1])


def selected(call: Call) -> Value:
    """One unit of an axis, by its number."""
    value = call.first()
    at = axis(call.given(1, "dim"), len(value))
    call.pin([value[at]])
    return value[:at] + value[at + 1 :]


def unbound(call: Call) -> list[Value]:
    """Every unit of an axis, by its number."""
    value = call.first()
    at = axis(call.given(1, "dim", 0), len(value))
    call.pin([value[at]])
    return [value[:at] + value[at + 1 :] for _ in range(value[at].size)]


def padded(call: Call) -> Value:
    """More at the ends of some axes: of one constant these are all alike, else read in order."""
    value, shape = call.first(), call.shape
    pads = list(call.given(1, "pad"))
    alike = call.operator == "constant_pad_nd" or call.given(2, "mode", "constant") == "constant"
    ends: list[tuple[int, int]] = [(0, 0)] * len(value)
    for place, pair in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        ends[len(value) - 1 - place] = pair
    return tuple(
        term if ends[place] == (0, 0) else _longer(call, term, shape[place], ends[place], alike)
        for place, term in enumerate(value)
    )


def _longer(call: Call, term: Term, size: int, ends: tuple[int, int], alike: bool) -> Term:
    if alike and min(ends) >= 0:
        before, after = (call.axes.units(each) for each in ends)
        return Sum((before, term, after))
    call.pin([term])
    return call.axes.units(size, f"made by {call.operator}")


def indexed(call: Call) -> Value:
    """Chosen by numbers along some axes, which are read in order."""
    value = call.first()
    given = call.given(1, "indices")
    chosen = [place for place, each in enumerate(given) if each is not None]
    call.pin([value[place] for place in chosen])
    rest = [term for place, term in enumerate(value) if place not in chosen]
    # Numbers side by side make their axes in their own place, others at the front.
    aside = chosen[-1] - chosen[0] + 1 == len(chosen)
    at, width = chosen[0] if aside else 0, len(call.shape) - len(rest)
    made = broadcast(call, call.listed(1, "indices"), call.shape[at : at + width])
    return (*rest[:at], *made, *rest[at:])


def picked(call: Call) -> Value:
    """Units of one axis by their numbers."""
    value, numbers = call.first(), call.tensor(2, "index")
    at = axis(call.given(1, "dim"), len(value))
    call.pin([value[at]])
    return _with(value, at, numbers[0] if numbers else call.axes.units(call.shape[at]))


def shuffled_pixels(call: Call) -> Value:
    """Channels become finer places: each is followed by its square of places."""
    value, fine = call.first(), call.given(1, "upscale_factor")
    squares = value[-3].size // fine**2
    channels, places = call.axes.factored(value[-3], (squares, fine**2))
    call.pin([*value[-2:], places], "a place in an image or a sequence")
    made = call.fresh(call.shape[-2:], "a place in an image or a sequence")
    return (*value[:-3], channels, *made)


def _with(value: Value, at: int, term: Term) -> Value:
    return (*value[:at], term, *value[at + 1 :])


def _from_front(index: int, size: int) -> int:
    return index if index >= 0 else max(index + size, 0)


def _equate_but(call: Call, one: Value, other: Value, at: int) -> None:
    for place, (left, right) in enumerate(zip(one, other, strict=True)):
        if place != at:
            call.axes.equate(left, right)


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten"), reshaped),
    **dict.fromkeys(("transpose", "t", "swapaxes"), transposed),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expanded),
    **dict.fromkeys(("cat", "concat", "concatenate"), joined),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), cut),
    **dict.fromkeys(("pad", "constant_pad_nd"), padded),
    **dict.fromkeys(("numpy_T", "matrix_H"), reversed_axes),
    **dict.fromkeys(("mT", "adjoint"), turned_over),
    "index": indexed,
    "index_select": picked,
    "pixel_shuffle": shuffled_pixels,
    "permute": permuted,
    "movedim": moved,
    "unsqueeze": unsqueezed,
    "squeeze": squeezed,
    "repeat": tiled,
    "tile": tiled,
    "repeat_interleave": interleaved,
    "stack": stacked,
    "slice": sliced,
    "narrow": narrowed,
    "select": selected,
    "unbind": unbound,
}
