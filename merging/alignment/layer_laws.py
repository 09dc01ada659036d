"""What layers and contractions say of the powers of their units' scales."""

from collections.abc import Callable

from weft.merging.alignment.powers import Along, Slot, Step


def unscaled(step: Step) -> None:
    """Nothing that goes in or comes out may be scaled."""
    for along in (*step.every(), *step.all_made()):
        step.equations.zero(flat(along))


def linear(step: Step) -> None:
    """Columns take the inputs' scale away, rows and bias set the outputs'."""
    value, weight, bias = (
        step.given(n, name) for n, name in enumerate(("input", "weight", "bias"))
    )
    if value is None or weight is None or len(weight) != 2:
        unscaled(step)
        return
    made = step.made()
    _cancel(step, value[-1], weight[1])
    _alike(step, made[-1], weight[0])
    _alike(step, made[-1], bias[0] if bias else made[-1])
    for mine, theirs in zip(made[:-1], value[:-1], strict=True):
        _alike(step, mine, theirs)


def convolved(step: Step) -> None:
    """As a linear layer; by channel the scales of inputs and rows multiply."""
    _convolve(step, lambda slots: step.equations.add(dict(zip(slots, (-1, -1, 1), strict=True))))


def followed_convolution(step: Step) -> None:
    """As a linear layer; by channel inputs, rows and outputs go together."""
    _convolve(step, step.equations.equal)


def _convolve(step: Step, by_channel: Callable[[list[Slot]], None]) -> None:
    value, weight, bias = (
        step.given(n, name) for n, name in enumerate(("input", "weight", "bias"))
    )
    if value is None or weight is None or len(value) != len(weight):
        unscaled(step)
        return
    turned = "transpose" in step.call.operator
    rows, columns = (weight[1], weight[0]) if turned else (weight[0], weight[1])
    groups = int(step.call.given(6, "groups", 1))
    shared = _outer(step, value[1], groups)
    made = step.made()[1]
    if shared is None or (turned and groups > 1) or len(made) != len(rows):
        unscaled(step)
        return
    for before, weighed, after in zip(value[1][:shared], rows, made, strict=False):
        by_channel([before, weighed, after])
    _alike(step, made[shared:], rows[shared:])
    _cancel(step, value[1][shared:], columns)
    _alike(step, made, bias[0] if bias else made)


def normalised_channels(step: Step) -> None:
    """BatchNorm: statistics and inputs as they are, outputs at the scale of weight and bias."""
    value = step.given(0, "input") or []
    step.equations.zero(flat(value))
    for place, name in ((3, "running_mean"), (4, "running_var")):
        step.equations.zero(flat(step.given(place, name) or []))
    _scaled_by(step, step.made()[1:2], step.given(1, "weight"), step.given(2, "bias"))


def normalised_last(step: Step) -> None:
    """LayerNorm and RMSNorm: outputs at the scale of weight and bias."""
    step.equations.zero(flat(step.given(0, "input") or []))
    axes = len(step.call.given(1, "normalized_shape"))
    made = step.made()
    step.equations.zero(flat(made[:-axes]))
    _scaled_by(step, made[-axes:], step.given(2, "weight"), step.given(3, "bias"))


def normalised_groups(step: Step) -> None:
    """GroupNorm: as BatchNorm, without statistics."""
    step.equations.zero(flat(step.given(0, "input") or []))
    _scaled_by(step, step.made()[1:2], step.given(2, "weight"), step.given(3, "bias"))


def embedded(step: Step) -> None:
    """The table's columns set the scale."""
    table = step.given(0, "weight")
    if table is None:
        unscaled(step)
    else:
        _alike(step, step.made()[-1], table[1])


def contracted(step: Step) -> None:
    """A product of matrices, or of stacks of as many axes."""
    one, other = step.given(0, "self"), step.given(1, "other") or step.given(1, "mat2")
    if one is None or other is None or len(one) != len(other) or len(one) < 2:
        unscaled(step)
        return
    made = step.made()
    _cancel(step, one[-1], other[-2])
    _alike(step, made[-2], one[-2])
    _alike(step, made[-1], other[-1])
    step.equations.zero(slot for each in (made, one, other) for slot in flat(each[:-2]))


def attended(step: Step) -> None:
    """Keys take the queries' scale away, what comes out has the values'."""
    query, key, value = (step.given(n, name) for n, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        unscaled(step)
        return
    _cancel(step, query[-1], key[-1])
    _alike(step, step.made()[-1], value[-1])
    fixed = (query[:-1], key[:-1], value[:-1], step.made()[:-1])
    step.equations.zero(slot for each in fixed for slot in flat(each))


def flat(along: Along) -> list[Slot]:
    """The slots of all axes."""
    return [slot for slots in along for slot in slots]


def _cancel(step: Step, one: list[Slot], other: list[Slot]) -> None:
    """What is summed over: a unit's scale on one side is taken away by the other."""
    if [step.leaves[slot] for slot in one] != [step.leaves[slot] for slot in other]:
        step.equations.zero((*one, *other))
        return
    for mine, theirs in zip(one, other, strict=True):
        step.equations.add({mine: 1, theirs: 1})


def _alike(step: Step, one: list[Slot], other: list[Slot]) -> None:
    if [step.leaves[slot] for slot in one] != [step.leaves[slot] for slot in other]:
        step.equations.zero((*one, *other))
        return
    for mine, theirs in zip(one, other, strict=True):
        step.equations.equal([mine, theirs])


def _scaled_by(step: Step, made: Along, weight: Along | None, bias: Along | None) -> None:
    if weight is None:
        step.equations.zero(flat(made))
        return
    for place, slots in enumerate(made):
        _alike(step, slots, weight[place])
        _alike(step, slots, bias[place] if bias else slots)


def _outer(step: Step, slots: list[Slot], groups: int) -> int | None:
    """How many of the first leaves are the groups of a convolution; None: they do not end there."""
    size, count = 1, 0
    while size < groups and count < len(slots):
        size *= step.leaves[slots[count]].size
        count += 1
    return count if size == groups else None
