"""What operators say of the powers of their units' scales.

Two tables. By `HOMOGENEOUS` a unit is truly multiplied: relu and a maximum pass a positive
scale on, a sigmoid does not. By `ORIENTED` a unit is only followed, whatever is done to it:
what makes it has power one, the columns that read it have power minus one.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch.fx import Node

from weft.merging.alignment import layer_laws
from weft.merging.alignment.axes import Units
from weft.merging.alignment.layer_laws import flat, unscaled
from weft.merging.alignment.layer_rules import POOLS, UPSAMPLES
from weft.merging.alignment.powers import Along, Law, Slot, Step


def passed(step: Step) -> None:
    """A scale of what goes in is one of what comes out."""
    for slots in _by_leaf(step, step.every(), step.all_made()).values():
        step.equations.equal(slots)


def added(step: Step) -> None:
    """All terms have one scale; what has not the units, such as a number, has none."""
    passed(step)
    arguments = [_leaves(step, along) for along in step.every()]
    node = step.call.node
    number = any(_is_number(each) for each in (*node.args[:2], *node.kwargs.values()))
    for along in step.all_made():
        for slot in flat(along):
            if number or not all(step.leaves[slot] in each for each in arguments):
                step.equations.zero([slot])


def multiplied(step: Step) -> None:
    """Scales multiply; where one leaf lies along several axes it stays unscaled."""
    _powers_of_product(step, (1, 1))


def divided(step: Step) -> None:
    """The divisor's scale is divided by; a quotient that is rounded has none."""
    if _is_number(step.call.node.args[0]) or step.call.node.kwargs:
        unscaled(step)
    else:
        _powers_of_product(step, (1, -1))


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
    step.equations.zero(flat(slopes or []))
    for slots in _by_leaf(step, [value or []], step.all_made()).values():
        step.equations.equal(slots)


def reduced(step: Step) -> None:
    """Means and sums of places; a sum over units that are scaled would be another one."""
    kept = set(_leaves(step, step.made()))
    for leaf, slots in _by_leaf(step, step.every(), step.all_made()).items():
        (step.equations.equal if leaf in kept else step.equations.zero)(slots)


def _leaves(step: Step, along: Along) -> set[Units]:
    return {step.leaves[slot] for slot in flat(along)}


def _by_leaf(step: Step, *sides: Iterable[Along]) -> dict[Units, list[Slot]]:
    """The slots of all sides, leaf by leaf."""
    found: dict[Units, list[Slot]] = {}
    for along in (each for side in sides for each in side):
        for slot in flat(along):
            found.setdefault(step.leaves[slot], []).append(slot)
    return found


def _is_number(given: Any) -> bool:
    """A number that changes what it is added to."""
    return not isinstance(given, Node) and isinstance(given, int | float) and given != 0


def _powers_of_product(step: Step, factors: tuple[int, int]) -> None:
    # Not `every`: a value times itself is an argument twice.
    given = [step.along(each) for each in step.call.node.args[:2] if isinstance(each, Node)]
    made = step.made()
    for leaf, slots in _by_leaf(step, given, [made]).items():
        after, *before = (
            [slot for slot in flat(along) if step.leaves[slot] is leaf] for along in (made, *given)
        )
        if len(after) != 1 or any(len(each) > 1 for each in before):
            step.equations.zero(slots)
            continue
        row = {after[0]: 1}
        for factor, each in zip(factors, before, strict=False):
            for slot in each:
                row[slot] = row.get(slot, 0) - factor
        step.equations.add(row)


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
    "linear": layer_laws.linear,
    "embedding": layer_laws.embedded,
    "scaled_dot_product_attention": layer_laws.attended,
    **dict.fromkeys(("matmul", "mm", "bmm"), layer_laws.contracted),
    **dict.fromkeys(
        (f"conv{turned}{n}d" for turned in ("", "_transpose") for n in (1, 2, 3)),
        layer_laws.convolved,
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
    "batch_norm": layer_laws.normalised_channels,
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_laws.normalised_last),
    "group_norm": layer_laws.normalised_groups,
}

ORIENTED: Final[Mapping[str, Law]] = {
    **_LAYERS,
    **dict.fromkeys(FOLLOWED, passed),
    **{name: layer_laws.followed_convolution for name in _LAYERS if name.startswith("conv")},
}
