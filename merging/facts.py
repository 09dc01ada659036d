"""What a method may know besides the blocks: of one contribution, of a tensor, of all.

A method sees a block at a time. What it must know of more than that (a norm of the whole
model, the magnitude above which a fifth of a task vector lies) is found beforehand by
whoever calls, as the method's `needs` and `cuts` ask for, and comes as facts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from weft.merging.errors import BadOption, CannotMerge


class Need(StrEnum):
    """What a method must be given besides the contributions."""

    BASE = "base"
    """A common base; the method means nothing without one."""

    NORM = "norm"
    """The Euclidean norm of each task vector, over all parameters that the contribution
    at hand holds, as `Facts.norm`."""

    SUMS = "sums"
    """Sums over the tensor at hand, as `Facts.sums`."""

    KEY = "key"
    """What random draws are keyed with, as `Facts.key`, and the block's place, as
    `Facts.offset`."""

    LAYER = "layer"
    """Where the tensor stands in the model's depth, as `Facts.layer`."""

    SCALE = "scale"
    """A factor for the tensor at hand, found beforehand, as `Facts.scale`."""


class Extent(StrEnum):
    """Over what a rank, a norm or an inner product is taken."""

    TENSOR = "tensor"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Cut:
    """A magnitude asked for by its rank among all magnitudes of a task vector.

    Magnitudes are those of the task vector rounded to float32. The answer is exact, and
    stands in `Facts.cuts` at the same place: the r-th smallest magnitude, where r is
    `rank(elements)`, counted from 1; minus infinity for a rank below 1, plus infinity
    for one beyond the last. Compare with `magnitudes`.
    """

    rank: Callable[[int], int]
    extent: Extent = Extent.MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSums:
    """Sums over one tensor of one contribution's task vector D."""

    elements: int
    absolute: float
    """Sum of |D|."""
    squares: float
    """Sum of D^2."""

    @property
    def norm(self) -> float:
        """Euclidean."""
        return math.sqrt(self.squares)

    @property
    def energy(self) -> float:
        """Mean of D^2; zero for a tensor without elements."""
        return self.squares / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Where a tensor stands in a model's depth.

    Attributes:
        index: of its block, from zero; None for a tensor outside all blocks
            (embeddings, heads, final norms).
        count: how many blocks the model has.
    """

    index: int | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a method may know of one contribution besides the block before it.

    Attributes:
        contribution: its name; distinct within a merge. Appears in messages, and is
            the canonical order where one is needed.
        weight: finite; zero means: not there.
        norm: Euclidean norm over all its parameters, with `Need.NORM`.
        sums: over the tensor at hand, with `Need.SUMS`.
        cuts: one magnitude for each of the method's `cuts`, float32 values.
        key: of the contribution's content, with `Need.KEY`; draws for one element
            depend on the key, the tensor's name and the element's place alone.
        offset: place of the block's first element in the flat tensor.
        layer: of the tensor at hand, with `Need.LAYER`.
        scale: a factor for the tensor at hand, with `Need.SCALE`.
    """

    contribution: str
    weight: float = 1.0
    norm: float | None = None
    sums: TensorSums | None = None
    cuts: tuple[float, ...] = ()
    key: bytes = b""
    offset: int = 0
    layer: Layer | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise BadOption(f"{self.contribution}: weight {self.weight} is not a finite number")

    def weighted(self, block: Tensor) -> Tensor:
        """W D; the block itself, not a copy, where w is 1: not to be written to."""
        return block if self.weight == 1 else block * self.weight


def missing(facts: Facts, name: str, need: Need) -> CannotMerge:
    """What to raise where a fact that a method needs was not given."""
    return CannotMerge(
        f"{facts.contribution}, tensor {name!r}: the method needs a {need}, none given"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a method may know of all contributions together, when it finishes.

    Attributes:
        count: how many contributions are in.
        weight: the sum of their weights, exact but for its last rounding.
    """

    count: int
    weight: float
