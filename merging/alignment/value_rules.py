"""Rules of operators on values: element by element, and over an axis."""

from collections.abc import Sequence
from typing import Final

from weft.merging.alignment.axes import Term
from weft.merging.alignment.calls import Call, Rule, Value, axis

# Words are easier to read than seventy lines of strings.
ELEMENTWISE: Final = (  # noqa: SIM905
    "_to_copy abs add addcdiv addcmul alias alpha_dropout bitwise_and bitwise_not bitwise_or celu"
    " clamp clamp_max clamp_min clone contiguous cos detach div dropout elu eq erf exp expm1"
    " feature_dropout float floor full_like ge gelu gt hardshrink hardsigmoid hardswish hardtanh"
    " isfinite le leaky_relu lift_fresh_copy log log1p log_sigmoid logical_and logical_not"
    " logical_or lt masked_fill maximum minimum mish mul ne neg ones_like pow reciprocal relu"
    " relu6 round rsqrt rsub selu sigmoid sign silu sin softplus softshrink softsign sqrt square"
    " sub tan tanh tanhshrink threshold to type_as where zeros_like"
).split()
REDUCING: Final = ("amax", "amin", "linalg_vector_norm", "logsumexp", "mean", "norm", "prod",
                   "std", "sum", "var")  # fmt: skip
ALONG: Final = ("softmax", "log_softmax", "_softmax", "_log_softmax")
ORDERED: Final = ("argsort", "cumprod", "cumsum", "flip", "roll", "sort", "topk", "tril", "triu")
CONSTANT: Final = ("empty", "full", "new_full", "new_ones", "new_zeros", "ones", "scalar_tensor",
                   "zeros")  # fmt: skip


def elementwise(call: Call) -> Value:
    """All tensors are broadcast against each other; axes that meet are equal."""
    width = len(call.shape)
    found: list[Term | None] = [None] * width
    for value in call.tensors():
        for place, term in enumerate(value, width - len(value)):
            kept = found[place]
            if term.size != call.shape[place]:
                continue
            if kept is None:
                found[place] = term
            else:
                call.axes.equate(kept, term)
    sizes = zip(found, call.shape, strict=True)
    return tuple(call.axes.units(size) if term is None else term for term, size in sizes)


def reduced(call: Call) -> Value:
    """A mean or a sum does not see the order of what it runs over."""
    value = call.first()
    place = 2 if call.operator in ("linalg_vector_norm", "norm") else 1
    over = dimensions(call.given(place, "dim"), len(value))
    if len(call.shape) == len(value):
        return tuple(
            call.axes.units(1) if place in over else term for place, term in enumerate(value)
        )
    return tuple(term for place, term in enumerate(value) if place not in over)


def along(call: Call) -> Value:
    """Softmax: the units of one axis weigh each other, place by place of the others."""
    value = call.first()
    at = axis(call.given(1, "dim"), len(value))
    call.met.append(value[:at] + value[at + 1 :])
    return value


def ordered(call: Call) -> list[Value] | Value:
    """What follows the order of some axes: those that are named, or all."""
    value = call.first()
    if call.operator in ("cumsum", "cumprod"):
        call.pin([value[axis(call.given(1, "dim"), len(value))]])
        return value
    call.pin(value)
    made = [call.fresh(shape, f"made by {call.operator}") for shape in call.shapes]
    return made if len(made) != 1 else made[0]


def constant(call: Call) -> Value:
    """One value everywhere: any order is the same."""
    return call.fresh(call.shape)


def weighed_channels(call: Call) -> Value:
    """PReLU: a slope for each channel, or one for all."""
    value, slopes = call.first(), call.tensor(1, "weight")
    if slopes and slopes[0].size != 1 and len(value) > 1:
        call.axes.equate(value[1], slopes[0])
    return value


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
    **dict.fromkeys(CONSTANT, constant),
    "prelu": weighed_channels,
    "_prelu_kernel": elementwise,
}
