"""Rules of operators with weights, of contractions, and of pooling."""

from typing import Final

from weft.merging.alignment.axes import Product, Sum, Term
from weft.merging.alignment.calls import Call, Found, Rule, Value, one_or_several

PLACE: Final = "a place in an image or a sequence"


def linear(call: Call) -> Value:
    """Inputs meet the columns of the weight, outputs are its rows: x W^T + b."""
    value, weight, bias = call.first(), call.tensor(1, "weight"), call.tensor(2, "bias")
    if weight is None:
        return unknown_of(call)
    call.axes.equate(value[-1], weight[-1])
    call.met.append(value[-1:])
    if len(weight) == 1:
        return value[:-1]
    _equate_first(call, bias, weight[0])
    return (*value[:-1], weight[0])


def convolved(call: Call) -> Value:
    """Channels in groups; everything else along the way are places."""
    value, weight, bias = call.first(), call.tensor(1, "weight"), call.tensor(2, "bias")
    if weight is None or len(value) != len(weight):
        return unknown_of(call)
    groups = _groups(call)
    turned = "transpose" in call.operator or (
        call.operator == "convolution" and bool(call.given(6, "transposed", False))
    )
    rows, columns = weight[0], weight[1]
    inner, outer = (rows, columns) if turned else (columns, rows)
    if groups == 1:
        call.axes.equate(value[1], inner)
        made: Term = outer
    elif turned:
        call.axes.equate(value[1], inner)
        group, _ = call.axes.factored(inner, (groups, inner.size // groups))
        made = Product((group, outer))
    else:
        group, within = call.axes.factored(value[1], (groups, value[1].size // groups))
        call.axes.equate(inner, within)
        made = _each_with(call, group, outer.size // groups)
        call.axes.equate(outer, made)
    _equate_first(call, bias, made)
    call.pin((*value[2:], *weight[2:]), PLACE)
    return (value[0], made, *call.fresh(call.shape[2:], PLACE))


def _each_with(call: Call, group: Term, times: int) -> Term:
    """So many units for each of a group; other ones for each piece that it is made of."""
    pieces = call.axes.pieces(group)
    return Sum(tuple(Product((piece, call.axes.units(times))) for piece in pieces))


def _groups(call: Call) -> int:
    return int(call.given(8 if call.operator == "convolution" else 6, "groups", 1))


def normalised_channels(call: Call) -> Value:
    """BatchNorm and InstanceNorm: weight, bias and running statistics by channel."""
    value = call.first()
    for place, name in ((1, "weight"), (2, "bias"), (3, "running_mean"), (4, "running_var")):
        _equate_first(call, call.tensor(place, name), value[1])
    return value


def normalised_last(call: Call) -> Value:
    """LayerNorm and RMSNorm: mean and variance over the last axes do not see an order."""
    value = call.first()
    call.met.append(value[: -len(call.given(1, "normalized_shape"))])
    for place, name in ((2, "weight"), (3, "bias")):
        scales = call.tensor(place, name)
        for one, other in zip(value[::-1], (scales or ())[::-1], strict=False):
            call.axes.equate(one, other)
    return value


def normalised_groups(call: Call) -> Value:
    """GroupNorm: groups of channels; channels move within theirs, and groups as a whole."""
    value = call.first()
    groups = call.given(1, "num_groups")
    call.axes.factored(value[1], (groups, value[1].size // groups))
    for place, name in ((2, "weight"), (3, "bias")):
        _equate_first(call, call.tensor(place, name), value[1])
    return value


def embedded(call: Call) -> Value:
    """A row of a table for each index: rows are told apart by the inputs."""
    table, indices = call.first(), call.tensor(1, "indices")
    call.pin([table[0]])
    return (*(indices or ()), table[1])


def multiplied(call: Call) -> Value:
    """A product of matrices, or of stacks of them."""
    one, other = call.first(), call.tensor(1, "other") or call.tensor(1, "mat2") or ()
    return _contracted(call, one, other)


def paired(call: Call) -> Value:
    """Every unit of one with every unit of the other."""
    return (*call.first(), *(call.tensor(1, "vec2") or ()))


def multiplied_and_added(call: Call) -> Value:
    """A bias and a product of matrices."""
    one, other = call.tensor(1, "mat1") or (), call.tensor(2, "mat2") or ()
    found = _contracted(call, one, other)
    for mine, bias in zip(found[::-1], call.first()[::-1], strict=False):
        if mine.size == bias.size:
            call.axes.equate(mine, bias)
    return found


def attended(call: Call) -> Value:
    """Scaled dot products of queries and keys weigh values; heads are one of the outer axes."""
    query, key, value = call.first(), call.tensor(1, "key"), call.tensor(2, "value")
    if key is None or value is None:
        return unknown_of(call)
    call.axes.equate(query[-1], key[-1])
    call.axes.equate(key[-2], value[-2])
    for mine, theirs in zip(query[:-2][::-1], key[:-2][::-1], strict=False):
        _equate_heads(call, mine, theirs)
    for one, other in zip(key[:-2], value[:-2], strict=True):
        call.axes.equate(one, other)
    call.met.extend([(*query[:-2], query[-1]), key[:-1]])
    mask = call.tensor(3, "attn_mask")
    whole = (*query[:-1], key[-2])
    for one, other in zip(whole[::-1], (mask or ())[::-1], strict=False):
        if one.size == other.size:
            call.axes.equate(one, other)
    if call.given(5, "is_causal", False):
        call.pin((query[-2], key[-2]))
    return (*query[:-1], value[-1])


def _equate_heads(call: Call, queries: Term, keys: Term) -> None:
    """Several heads of queries in a row share one of keys, where there are fewer of those."""
    if queries.size == keys.size:
        call.axes.equate(queries, keys)
    elif keys.size > 1:
        sharing = call.axes.units(queries.size // keys.size)
        call.axes.equate(queries, Product((keys, sharing)))


def summed_by_letters(call: Call) -> Value:
    """einsum: axes of one letter are equal."""
    equation = str(call.given(0, "equation")).replace(" ", "")
    inputs, _, output = equation.partition("->")
    operands = call.listed(1, "tensors")
    if "..." in equation or not output:
        return unknown_of(call)
    by_letter: dict[str, Term] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        for letter, term in zip(letters, operand, strict=True):
            call.axes.equate(by_letter.setdefault(letter, term), term)
    shared = set.intersection(*map(set, inputs.split(",")))
    call.met.append(tuple(by_letter[letter] for letter in sorted(shared)))
    return tuple(by_letter[letter] for letter in output)


def pooled(call: Call) -> Found:
    """Channels are kept; the last axes become other places."""
    value = call.first()
    places = int(next(letter for letter in call.operator if letter.isdigit()))
    kept, gone = value[:-places], value[-places:]
    call.pin(gone, PLACE)
    return one_or_several([(*kept, *call.fresh(shape[-places:], PLACE)) for shape in call.shapes])


def unknown_of(call: Call) -> Value:
    """Everything that goes in and comes out stays in its order."""
    for value in call.tensors():
        call.pin(value)
    return call.fresh(call.shape, f"made by {call.operator}")


def _contracted(call: Call, one: Value, other: Value) -> Value:
    if not one or not other:
        return unknown_of(call)
    call.axes.equate(one[-1], other[-2] if len(other) > 1 else other[0])
    outer = _broadcast(call, one[:-2], other[:-2])
    call.met.append((*outer, one[-1]))
    rows = (one[-2],) if len(one) > 1 else ()
    columns = (other[-1],) if len(other) > 1 else ()
    return (*outer, *rows, *columns)


def _broadcast(call: Call, one: Value, other: Value) -> Value:
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    found = list(long)
    for place, term in enumerate(short, len(long) - len(short)):
        if found[place].size == term.size:
            call.axes.equate(found[place], term)
        elif found[place].size == 1:
            found[place] = term
    return tuple(found)


def _equate_first(call: Call, value: Value | None, term: Term) -> None:
    if value:
        call.axes.equate(value[0], term)


POOLS: Final = tuple(
    f"{kind}{places}d{suffix}"
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
    for places in (1, 2, 3)
    for suffix in ("", "_with_indices")
)
UPSAMPLES: Final = (
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d")),
    *(f"upsample_{kind}" for kind in ("bicubic2d", "trilinear3d", "linear1d")),
    *(f"_upsample_{kind}" for kind in ("nearest_exact1d", "nearest_exact2d", "bilinear2d_aa")),
)

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys((*POOLS, *UPSAMPLES), pooled),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), multiplied),
    **dict.fromkeys(("addmm", "baddbmm"), multiplied_and_added),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), convolved),
    **dict.fromkeys((f"conv_transpose{places}d" for places in (1, 2, 3)), convolved),
    **dict.fromkeys(("batch_norm", "instance_norm"), normalised_channels),
    **dict.fromkeys(("layer_norm", "rms_norm"), normalised_last),
    "linear": linear,
    "outer": paired,
    "group_norm": normalised_groups,
    "embedding": embedded,
    "scaled_dot_product_attention": attended,
    "einsum": summed_by_letters,
}
