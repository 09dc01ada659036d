"""Merging one block of one tensor, whatever kind of method it is.

The one place where the kinds differ for a caller: the engine, which streams files, and
the simulator both come through here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.merging.deltas import GramSum
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.folding import FoldState
from weft.merging.method import Combination, Facts, Fold, Joint, Method, Sequential
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.monoids import Shape
from weft.merging.precision import Precision
from weft.merging.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What is merged: a block of a tensor, or all of it.

    Attributes:
        name: of the tensor.
        tensor_shape: of the whole tensor.
        shape: of the block; the same where the method's scope is matrix.
        base: the base's block, where there is one.
        precision: in which it is merged; base and task vectors have its dtype.
    """

    name: str
    tensor_shape: Shape
    shape: Shape
    base: Tensor | None = None
    precision: Precision = Precision.EXACT


def merge_block(
    method: Method, block: Block, deltas: Iterable[Tensor], facts: Sequence[Facts]
) -> Tensor:
    """The merged task vector of one block.

    Args:
        method: any but a transform or a calibration. Of a combination the block is the
            whole tensor, or all there is of a model. What a method that keeps the mean
            norm gives is not yet brought to it.
        block: which block.
        deltas: one task vector a contribution, of the block's shape. Iterated
            once a phase; folds and sequential methods keep one in memory at a time.
        facts: one for each task vector. Those of weight zero are left out.

    Returns:
        Of the block's shape, in the dtype of its precision.

    Raises:
        CannotMerge: nothing to merge, or the method does not merge.
        NonFinite, OutOfBound, FoldFull: what a fold refuses.
    """
    if all(fact.weight == 0 for fact in facts):
        raise CannotMerge(f"tensor {block.name!r}: no contribution has a weight other than zero")
    if isinstance(method, Fold):
        return _fold(method, block, deltas, facts)
    if isinstance(method, Sequential):
        return _absorb(method, block, deltas, facts)
    if isinstance(method, Joint):
        return _merge(method, block, deltas, facts)
    if isinstance(method, Combination):
        return _combine(method, block, list(deltas), facts)
    raise CannotMerge(f"{type(method).__name__} changes one task vector; it does not merge several")


def in_proportion(method: Method, facts: Sequence[Facts]) -> list[Facts]:
    """Bring the largest weight near one, where only proportions matter to the method.

    Numbers of samples would otherwise leave the grid of an exact sum, and small shares
    use little of it. The factor is a power of two, so proportions stay exact, and it
    depends on the set of weights only, not on their order.
    """
    largest = max((abs(fact.weight) for fact in facts), default=0.0)
    if not method.proportional or largest == 0:
        return list(facts)
    shift = 1 - math.frexp(largest)[1]
    return [replace(fact, weight=math.ldexp(fact.weight, shift)) for fact in facts]


def _fold(method: Fold, block: Block, deltas: Iterable[Tensor], facts: Sequence[Facts]) -> Tensor:
    state = _phase(method, block, deltas, facts, 0, {})
    for phase in range(1, method.phases):
        state = _phase(method, block, deltas, facts, phase, state.values())
    return state.finish(block.base)


def _phase(
    method: Fold,
    block: Block,
    deltas: Iterable[Tensor],
    facts: Sequence[Facts],
    phase: int,
    previous: Mapping[str, Tensor],
) -> FoldState:
    state = FoldState.zero(
        method,
        block.name,
        block.shape,
        tensor_shape=block.tensor_shape,
        phase=phase,
        previous=previous,
        precision=block.precision,
    )
    for delta, fact in zip(deltas, facts, strict=True):
        state.take(delta, fact)
    return state


def _absorb(
    method: Sequential, block: Block, deltas: Iterable[Tensor], facts: Sequence[Facts]
) -> Tensor:
    state = method.init(block.name, block.shape, block.base)
    tally = Tally()
    for delta, fact in zip(deltas, facts, strict=True):
        if fact.weight != 0:
            state = method.absorb(block.name, state, delta.to(torch.float64), fact)
            tally.add(fact.weight)
    return method.result(block.name, state, tally.totals).to(block.precision.dtype)


def _merge(method: Joint, block: Block, deltas: Iterable[Tensor], facts: Sequence[Facts]) -> Tensor:
    chosen, present = _canonical(method, deltas, facts)
    return method.merge(block.name, chosen, present, block.base)


def _canonical(
    method: Joint | Combination, deltas: Iterable[Tensor], facts: Sequence[Facts]
) -> tuple[list[Tensor], list[Facts]]:
    """Those that are there, by name; as they were given where order matters."""
    pairs = [pair for pair in zip(deltas, facts, strict=True) if pair[1].weight != 0]
    if not method.ordered:
        pairs.sort(key=lambda pair: pair[1].contribution)
    return [delta for delta, _ in pairs], [fact for _, fact in pairs]


def _combine(
    method: Combination, block: Block, deltas: Sequence[Tensor], facts: Sequence[Facts]
) -> Tensor:
    # In canonical order before they are multiplied: the last bits of a product of matrices
    # depend on where a row stands and on how many there are.
    chosen, present = _canonical(method, deltas, facts)
    products = GramSum(len(chosen))
    products.add(torch.stack([delta.flatten().to(torch.float64) for delta in chosen]))
    weighted = combined(method, products.gram(), present, f"tensor {block.name!r}")
    if all(fact.weight == 0 for fact in weighted):
        return torch.zeros(block.shape, dtype=block.precision.dtype)
    return _fold(TaskArithmetic(scale=1.0), block, chosen, weighted)


def combined(
    method: Combination, gram: Tensor, facts: Sequence[Facts], where: str = "all tensors"
) -> list[Facts]:
    """The facts with the coefficients of a combination as weights, in the order given.

    Args:
        method: the combination.
        gram: (n, n), float64; inner products over the tensor or the model. For equal
            bytes everywhere, of those whose weight is not zero alone, sorted by name.
        facts: one for each contribution; those of weight zero stay at zero.
        where: what the products are over, for messages.

    Raises:
        NonFinite: a task vector is not finite, or its norm is not.
    """
    present = [index for index, fact in enumerate(facts) if fact.weight != 0]
    if not method.ordered:
        present.sort(key=lambda index: facts[index].contribution)
    chosen = [facts[index] for index in present]
    for index, fact in zip(present, chosen, strict=True):
        # No coefficient would be right, and zero would hide it.
        if not math.isfinite(square := gram[index, index].item()):
            raise NonFinite(
                f"{fact.contribution}, {where}: {square} found as its squared norm, expected"
                " finite numbers"
            )
    weighted = list(facts)
    found = method.coefficients(gram[present][:, present], chosen)
    for index, coefficient in zip(present, found, strict=True):
        weighted[index] = replace(facts[index], weight=float(coefficient))
    return weighted
