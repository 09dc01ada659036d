"""The r-th smallest of n models, element by element.

A sorting network: n lanes, each a block, and a fixed list of pairs of lanes whose
elements are put in order with one minimum and one maximum. Those passes over memory are
as fast as additions, where sorting each element's n values takes tens of nanoseconds.
What does not lead to a wanted rank is left out.

>>> import torch
>>> blocks = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, 9.0]), torch.tensor([1.0, 5.0])]
>>> mean_of_ranks(blocks, range(1, 2)).tolist()
[2.0, 5.0]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHUNK: Final = 16_384
"""Elements at a time: few enough that all lanes stay in the processor's cache."""

_Lane = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Exchange:
    """The smaller of two lanes to `low`, the larger to `high`, each if it is wanted."""

    low: int
    high: int
    keeps_low: bool
    keeps_high: bool


def mean_of_ranks(blocks: Sequence[Tensor], ranks: range) -> Tensor:
    """At each element, the mean of the values of these ranks.

    An element's bits depend on its own values alone; a zero is never -0.0.

    Args:
        blocks: of one shape and floating dtype, finite; not modified.
        ranks: from zero, the smallest; at least one, without gaps.

    Returns:
        A new tensor of the blocks' shape and dtype.
    """
    given = [block.reshape(-1).numpy() for block in blocks]
    result = torch.empty_like(blocks[0], memory_format=torch.contiguous_format)
    mean = result.view(-1).numpy()
    scratch = np.empty((len(given) + 1, min(len(mean), _CHUNK)), mean.dtype)
    for start in range(0, len(mean), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(mean)))
        lanes = list(scratch[:, : part.stop - start])
        for lane, values in zip(lanes, given, strict=False):
            lane[:] = values[part]
        _exchange(lanes, _network(len(given), ranks.start, ranks.stop))
        total = np.add(lanes[ranks.start], 0.0, out=mean[part])
        for rank in ranks[1:]:
            total += lanes[rank]
        if len(ranks) > 1:
            total /= len(ranks)
    return result


def _exchange(lanes: list[_Lane], network: Sequence[_Exchange]) -> None:
    """Run a network in place; the last lane is none, but room for one."""
    for exchange in network:
        one, two = lanes[exchange.low], lanes[exchange.high]
        if not exchange.keeps_high:
            np.minimum(one, two, out=one)
        elif not exchange.keeps_low:
            np.maximum(one, two, out=two)
        else:
            lanes[exchange.low] = np.minimum(one, two, out=lanes[-1])
            np.maximum(one, two, out=two)
            lanes[-1] = one


@cache
def _network(count: int, start: int, stop: int) -> tuple[_Exchange, ...]:
    """The exchanges that bring ranks start to stop of `count` lanes to their places."""
    wanted = set(range(start, stop))
    kept = []
    for low, high in reversed(list(_merge_exchanges(count))):
        if low in wanted or high in wanted:
            kept.append(_Exchange(low, high, low in wanted, high in wanted))
            wanted |= {low, high}
    return tuple(reversed(kept))


def _merge_exchanges(count: int) -> Iterator[tuple[int, int]]:
    """A network that sorts any number of lanes: Batcher's merge exchange.

    Source: Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2 M.
    """
    top = 1 << max(count - 1, 0).bit_length() >> 1
    step = top
    while step > 0:
        jump, residue, distance = top, 0, step
        while True:
            for lane in range(count - distance):
                if lane & step == residue:
                    yield lane, lane + distance
            if jump == step:
                break
            distance, jump, residue = jump - step, jump >> 1, step
        step >>= 1
