"""A tensor taken apart so that each axis is one leaf, changed, and put together again.

`rewritten` does for a function on pieces what `Permutation.tensor` does for an order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from weft.merging.alignment.axes import Axes, Sum, Term, Units

Change: TypeAlias = Callable[[Tensor, list[Units], list[int]], Tensor]
"""What becomes of a piece, given its leaves, an axis each, and their places in the tensor: how
many leaves, of its whole layout and those of size one left out, come before."""


def rewritten(
    axes: Axes, tensor: Tensor, layout: Sequence[Term], change: Change, shape: Sequence[int]
) -> Tensor:
    """Change every piece of a tensor.

    Args:
        axes: of the layout.
        tensor: any dtype; not modified.
        layout: its terms.
        change: keeps the number of axes of a piece.
        shape: of what comes of it.
    """
    found = _rewritten(axes, tensor, _placed(axes, layout), change)
    return found.reshape(list(shape))


def strands(
    axes: Axes, tensor: Tensor, layout: Sequence[Term]
) -> Iterator[tuple[Tensor, list[Units], list[int]]]:
    """Every piece of a tensor, a view where that can be, with its leaves and their places."""
    found: list[tuple[Tensor, list[Units], list[int]]] = []

    def note(piece: Tensor, leaves: list[Units], places: list[int]) -> Tensor:
        found.append((piece, leaves, places))
        return piece

    _rewritten(axes, tensor, _placed(axes, layout), note)
    yield from found


_Factors: TypeAlias = list[tuple[Term, int]]


def _placed(axes: Axes, layout: Sequence[Term]) -> _Factors:
    """The factors of a layout, each with the place of its first leaf."""
    placed: _Factors = []
    place = 0
    for factor in (factor for term in layout for factor in axes.factors(term)):
        placed.append((factor, place))
        place += _count(axes, factor)
    return placed


def _rewritten(axes: Axes, tensor: Tensor, factors: _Factors, change: Change) -> Tensor:
    spread = tensor.reshape([factor.size for factor, _ in factors])
    for axis, (factor, _) in enumerate(factors):
        if isinstance(factor, Sum):
            return _by_piece(axes, spread, factors, axis, change)
    leaves = [factor for factor, _ in factors if isinstance(factor, Units)]
    return change(spread, leaves, [place for _, place in factors])


def _by_piece(axes: Axes, tensor: Tensor, factors: _Factors, axis: int, change: Change) -> Tensor:
    term, place = factors[axis]
    parts = term.parts if isinstance(term, Sum) else ()
    made = []
    for piece, part in zip(
        torch.split(tensor, [part.size for part in parts], dim=axis), parts, strict=True
    ):
        inner: _Factors = []
        for factor in axes.factors(part):
            inner.append((factor, place))
            place += _count(axes, factor)
        wanted = [*factors[:axis], *inner, *factors[axis + 1 :]]
        changed = _rewritten(axes, piece, wanted, change)
        # One axis again for what the piece has along it.
        first = changed.shape[:axis]
        rest = changed.shape[axis + len(inner) :]
        made.append(changed.reshape([*first, -1, *rest]))
    return torch.cat(made, dim=axis)


def _count(axes: Axes, term: Term) -> int:
    return sum(leaf.size != 1 for leaf in axes.leaves(term))
