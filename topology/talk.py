"""The four things that a round may do."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Silent:
    """Nobody talks."""


@dataclass(frozen=True, slots=True)
class OnGraph:
    """All edges of a step of the graph."""

    step: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """A few exchanges, drawn by chance."""

    expected: float
    one_way: bool


@dataclass(frozen=True, slots=True)
class Everybody:
    """All with all."""


Talk: TypeAlias = Silent | OnGraph | Pairs | Everybody
