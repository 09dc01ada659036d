"""Rules of operators that only move, cut, join and repeat."""

from typing import Final

from weft.merging.alignment.axes import Product, Sum, Term
from weft.merging.alignment.calls import Call, Rule, Value, axis


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
    """More at the ends of the last axes; those are read in order."""
    value = call.first()
    same = [term.size == size for term, size in zip(value, call.shape, strict=True)]
    call.pin([term for term, kept in zip(value, same, strict=True) if not kept])
    return tuple(
        term if kept else call.axes.units(size, f"made by {call.operator}")
        for term, kept, size in zip(value, same, call.shape, strict=True)
    )


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
