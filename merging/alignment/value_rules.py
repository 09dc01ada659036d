"""Rules of operators on values: element by element, and over an axis."""

from collections.abc import Sequence
from typing import Final

from weft.merging.alignment.calls import (
    Call,
    Found,
    Rule,
    Value,
    axis,
    broadcast,
    one_or_several,
)

# Words are easier to read than seventy lines of strings.
ELEMENTWISE: Final = (  # noqa: SIM905
    "_to_copy abs acos acosh add addcdiv addcmul alias alpha_dropout asin asinh atan atan2"
    " atanh bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max clamp_min clip clone"
    " contiguous copysign cos cosh detach digamma div dropout elu eq erf erfc exp exp2 expm1"
    " feature_dropout fill float floor floor_divide fmod frac full_like ge gelu gt hardshrink"
    " hardsigmoid hardswish hardtanh hypot isfinite isinf isnan le leaky_relu lerp lgamma"
    " lift_fresh_copy log log10 log1p log2 log_sigmoid logaddexp logical_and logical_not"
    " logical_or logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg"
    " ones_like positive pow reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid"
    " sign silu sin sinh softplus softshrink softsign sqrt square sub tan tanh tanhshrink"
    " threshold to true_divide trunc type_as where xlogy zero zeros_like"
).split()
REDUCING: Final = ("all", "amax", "amin", "any", "linalg_vector_norm", "logsumexp", "mean", "norm",
                   "prod", "std", "sum", "var")  # fmt: skip
ALONG: Final = ("softmax", "log_softmax", "_softmax", "_log_softmax")
ORDERED: Final = {"argsort": 1, "cummax": 1, "cummin": 1, "cumprod": 1, "cumsum": 1, "flip": 1,
                  "logcumsumexp": 1, "roll": 2, "sort": 1, "topk": 2}  # fmt: skip
"""Operators that follow the order of some axes, and the place of the argument that names them."""
TRIANGULAR: Final = ("tril", "triu")
EXTREME: Final = ("argmax", "argmin", "max", "min")
COUNTED: Final = ("arange", "eye", "linspace", "logspace")
CONSTANT: Final = ("empty", "full", "new_full", "new_ones", "new_zeros", "ones", "scalar_tensor",
                   "zeros")  # fmt: skip


def elementwise(call: Call) -> Value:
    """All tensors are broadcast against each other; axes that meet are equal."""
    return broadcast(call, list(call.tensors()), call.shape)


def reduced(call: Call) -> Value:
    """A mean or a sum does not see the order of what it runs over."""
    value = call.first()
    place = 2 if call.operator in ("linalg_vector_norm", "norm") else 1
    over = dimensions(call.given(place, "dim"), len(value))
    return _without(call, value, over, call.shape)


def along(call: Call) -> Value:
    """Softmax: the units of one axis weigh each other, place by place of the others."""
    value = call.first()
    at = axis(call.given(1, "dim"), len(value))
    call.met.append(value[:at] + value[at + 1 :])
    return value


def ordered(call: Call) -> Found:
    """What follows the order of some axes: those that are named, or all."""
    value = call.first()
    place, default = ORDERED[call.operator], None if call.operator in ("flip", "roll") else -1
    over = dimensions(call.given(place, "dims" if default is None else "dim", default), len(value))
    return _followed(call, value, over)


def triangular(call: Call) -> Found:
    """Rows against columns: the last two axes."""
    value = call.first()
    return _followed(call, value, {len(value) - 2, len(value) - 1})


def extreme(call: Call) -> Found:
    """The largest or smallest: of two tensors, of all values, or of an axis with its place."""
    if call.tensor(1, "other") is not None:
        return elementwise(call)
    value = call.first()
    over = dimensions(call.given(1, "dim"), len(value))
    call.pin([term for place, term in enumerate(value) if place in over and len(over) == 1])
    return one_or_several([_without(call, value, over, shape) for shape in call.shapes])


def counted(call: Call) -> Value:
    """Numbers in their order."""
    return call.fresh(call.shape, f"made by {call.operator}")


def halved(call: Call) -> Value:
    """GLU: one half of an axis is the gate of the other, unit by unit."""
    value = call.first()
    at = axis(call.given(1, "dim", -1), len(value))
    one, other = call.axes.cut(value[at], [value[at].size // 2] * 2)
    call.axes.equate(one, other)
    return (*value[:at], one, *value[at + 1 :])


def constant(call: Call) -> Value:
    """One value everywhere: any order is the same."""
    return call.fresh(call.shape)


def weighed_channels(call: Call) -> Value:
    """PReLU: a slope for each channel, or one for all."""
    value, slopes = call.first(), call.tensor(1, "weight")
    if slopes and slopes[0].size != 1 and len(value) > 1:
        call.axes.equate(value[1], slopes[0])
    return value


def _without(call: Call, value: Value, over: set[int], shape: Sequence[int]) -> Value:
    """A value without some axes, or with one unit for each."""
    if len(shape) == len(value):
        return tuple(
            call.axes.units(1) if place in over else term for place, term in enumerate(value)
        )
    return tuple(term for place, term in enumerate(value) if place not in over)


def _followed(call: Call, value: Value, over: set[int]) -> Found:
    """Some axes are read in order, and others made in order in their place."""
    call.pin([term for place, term in enumerate(value) if place in over])
    why = f"made by {call.operator}"
    return one_or_several(
        [
            tuple(
                call.axes.units(size, why) if place in over else term
                for place, (term, size) in enumerate(zip(value, shape, strict=True))
            )
            for shape in call.shapes
        ],
    )


def dimensions(given: object, axes: int) -> set[int]:
    """The axes that an argument `dim` names; all of them where it names none."""
    if given is None or given == []:
        return set(range(axes))
    places: Sequence[int] = given if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]
    return {axis(place, axes) for place in places}


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(REDUCING, reduced),
    **dict.fromkeys(ALONG, along),
    **dict.fromkeys(ORDERED, ordered),
    **dict.fromkeys(TRIANGULAR, triangular),
    **dict.fromkeys(EXTREME, extreme),
    **dict.fromkeys(CONSTANT, constant),
    **dict.fromkeys(COUNTED, counted),
    "glu": halved,
    "prelu": weighed_channels,
    "_prelu_kernel": elementwise,
}
