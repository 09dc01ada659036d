"""What operators say of the powers of their units' scales.

Two tables. By `HOMOGENEOUS` a unit is truly multiplied: relu and a maximum pass a positive
scale on, a sigmoid does not. By `ORIENTED` a unit is only followed, whatever is done to it:
what makes it has power one, the columns that read it have power minus one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from torch.fx import Node

from weft.merging.alignment.axes import Units
from weft.merging.alignment.layer_rules import POOLS, UPSAMPLES
from weft.merging.alignment.powers import Along, Law, Slot, Step


def unscaled(step: Step) -> None:
    """Nothing that goes in or comes out may be scaled."""
    for along in (*step.every(), *step.all_made()):
        step.equations.zero(_flat(along))


def passed(step: Step) -> None:
    """A scale of what goes in is one of what comes out."""
    for slots in _by_leaf(step, step.every(), step.all_made()).values():
        step.equations.equal(slots)


def added(step: Step) -> None:
    """All terms have one scale; what has not the units, such as a number, has none."""
    passed(step)
    arguments = [_leaves(step, along) for along in step.every()]
    number = any(_is_number(each) for each in step.call.node.args[:2])
    for along in step.all_made():
        for slot in _flat(along):
            if number or not all(step.leaves[slot] in each for each in arguments):
                step.equations.zero([slot])


def multiplied(step: Step) -> None:
    """Scales multiply; where one leaf lies along several axes it stays unscaled."""
    _powers_of_product(step, [1] * len(step.every()))


def divided(step: Step) -> None:
    """The divisor's scale is divided by."""
    given = step.call.node.args[:2]
    if _is_number(given[0]):
        unscaled(step)
        return
    _powers_of_product(step, [1, -1][: len(step.every())])


def filled(step: Step) -> None:
    """Zeros are zeros at any scale; another number is not."""
    value = step.call.given(2, "value")
    (passed if value == 0 else unscaled)(step)


def lengthened(step: Step) -> None:
    """Padding: with zeros only."""
    place = 2 if step.call.operator == "constant_pad_nd" else 3
    mode = "constant" if place == 2 else step.call.given(2, "mode", "constant")
    value = step.call.given(place, "value")
    plain = mode != "constant" or value is None or value == 0
    (passed if plain else unscaled)(step)


def sloped(step: Step) -> None:
    """PReLU: slopes are numbers by channel, and are not scaled."""
    value, slopes = step.given(0, "input"), step.given(1, "weight")
    step.equations.zero(_flat(slopes or []))
    for slots in _by_leaf(step, [value or []], step.all_made()).values():
        step.equations.equal(slots)


def reduced(step: Step) -> None:
    """Means and sums of places; a sum over units that are scaled would be another one."""
    kept = set(_leaves(step, step.made()))
    for leaf, slots in _by_leaf(step, step.every(), step.all_made()).items():
        (step.equations.equal if leaf in kept else step.equations.zero)(slots)


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
    step.equations.zero(_flat(value))
    for place, name in ((3, "running_mean"), (4, "running_var")):
        step.equations.zero(_flat(step.given(place, name) or []))
    _scaled_by(step, step.made()[1:2], step.given(1, "weight"), step.given(2, "bias"))


def normalised_last(step: Step) -> None:
    """LayerNorm and RMSNorm: outputs at the scale of weight and bias."""
    step.equations.zero(_flat(step.given(0, "input") or []))
    axes = len(step.call.given(1, "normalized_shape"))
    made = step.made()
    step.equations.zero(_flat(made[:-axes]))
    _scaled_by(step, made[-axes:], step.given(2, "weight"), step.given(3, "bias"))


def normalised_groups(step: Step) -> None:
    """GroupNorm: as BatchNorm, without statistics."""
    step.equations.zero(_flat(step.given(0, "input") or []))
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
    step.equations.zero(slot for each in (made, one, other) for slot in _flat(each[:-2]))


def attended(step: Step) -> None:
    """Keys take the queries' scale away, what comes out has the values'."""
    query, key, value = (step.given(n, name) for n, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        unscaled(step)
        return
    _cancel(step, query[-1], key[-1])
    _alike(step, step.made()[-1], value[-1])
    fixed = (query[:-1], key[:-1], value[:-1], step.made()[:-1])
    step.equations.zero(slot for each in fixed for slot in _flat(each))


def _flat(along: Along) -> list[Slot]:
    return [slot for slots in along for slot in slots]


def _leaves(step: Step, along: Along) -> set[Units]:
    return {step.leaves[slot] for slot in _flat(along)}


def _by_leaf(step: Step, *sides: Iterable[Along]) -> dict[Units, list[Slot]]:
    """The slots of all sides, leaf by leaf."""
    found: dict[Units, list[Slot]] = {}
    for along in (each for side in sides for each in side):
        for slot in _flat(along):
            found.setdefault(step.leaves[slot], []).append(slot)
    return found


def _is_number(given: Any) -> bool:
    """A number that changes what it is added to."""
    return not isinstance(given, Node) and isinstance(given, int | float) and given != 0


def _powers_of_product(step: Step, factors: list[int]) -> None:
    made = step.made()
    for leaf, slots in _by_leaf(step, step.every(), [made]).items():
        after = [slot for slot in _flat(made) if step.leaves[slot] is leaf]
        before = [
            [slot for slot in _flat(along) if step.leaves[slot] is leaf] for along in step.every()
        ]
        if len(after) != 1 or any(len(each) > 1 for each in before):
            step.equations.zero(slots)
            continue
        row = {after[0]: 1}
        for factor, each in zip(factors, before, strict=True):
            for slot in each:
                # A value times itself is one argument twice.
                row[slot] = row.get(slot, 0) - factor
        step.equations.add(row)


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
        step.equations.zero(_flat(made))
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


# Words are easier to read than forty lines of strings.
PASSING: Final = (  # noqa: SIM905
    "_to_copy alias clone contiguous detach dropout feature_dropout leaky_relu lift_fresh_copy neg"
    " relu to type_as abs expand expand_as broadcast_to view reshape _unsafe_view flatten unflatten"
    " permute transpose t swapaxes movedim unsqueeze squeeze repeat tile repeat_interleave cat"
    " concat concatenate split split_with_sizes chunk slice narrow select unbind stack numpy_T"
    " matrix_H mT zeros_like"
).split()
ADDING: Final = ("add", "sub", "rsub", "maximum", "minimum")
FOLLOWED: Final = (  # noqa: SIM905
    "add addcdiv addcmul alpha_dropout celu clamp clamp_max clamp_min cos div elu erf exp expm1"
    " gelu hardshrink hardsigmoid hardswish hardtanh log log1p log_sigmoid masked_fill maximum"
    " minimum mish mul pow prelu _prelu_kernel reciprocal relu6 round rsqrt rsub selu sigmoid sign"
    " silu sin softplus softshrink softsign sqrt square sub tan tanh tanhshrink threshold where"
    " batch_norm instance_norm layer_norm rms_norm pad constant_pad_nd"
).split()

_LAYERS: Final[Mapping[str, Law]] = {
    "linear": linear,
    "embedding": embedded,
    "scaled_dot_product_attention": attended,
    **dict.fromkeys(("matmul", "mm", "bmm"), contracted),
    **dict.fromkeys(
        (f"conv{turned}{n}d" for turned in ("", "_transpose") for n in (1, 2, 3)), convolved
    ),
    **dict.fromkeys((*PASSING, *POOLS, *UPSAMPLES), passed),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduced),
}

HOMOGENEOUS: Final[Mapping[str, Law]] = {
    **_LAYERS,
    **dict.fromkeys(ADDING, added),
    "mul": multiplied,
    "div": divided,
    "masked_fill": filled,
    **dict.fromkeys(("pad", "constant_pad_nd"), lengthened),
    **dict.fromkeys(("prelu", "_prelu_kernel"), sloped),
    "batch_norm": normalised_channels,
    **dict.fromkeys(("layer_norm", "rms_norm"), normalised_last),
    "group_norm": normalised_groups,
}

ORIENTED: Final[Mapping[str, Law]] = {
    **_LAYERS,
    **dict.fromkeys(FOLLOWED, passed),
    **{name: followed_convolution for name in _LAYERS if name.startswith("conv")},
}
