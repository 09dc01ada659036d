"""What a merge method is: the contracts, and what a method is told.

All methods work on *task vectors*, D = theta - theta_0 in float64 (theta itself where
there is no base), and return the merged task vector; whoever calls adds the base and
rounds once to the output's dtype. A method sees a block of a tensor at a time, or the
whole tensor where `scope` says so. It never sees a file, and keeps no state of its own:
it is a frozen dataclass whose fields are the hyperparameters.

Four kinds:

    Fold         lift each contribution into the fields of a state, finish the total
    Sequential   absorb one contribution after another; order matters
    Joint        all contributions of one tensor at once
    Transform    changes one task vector, before or after a merge

A fold that is made of sums merges in any order and over any topology to the same bytes,
streams in constant memory, and gives a contribution back; prefer it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from torch import Tensor

from weft.merging.errors import BadOption
from weft.merging.monoids import Field, Shape
from weft.merging.state import state_bytes


class Need(StrEnum):
    """What a method must be given besides the contributions."""

    BASE = "base"
    """A common base; the method means nothing without one."""

    NORM = "norm"
    """The Euclidean norm of each task vector, over all parameters that the contribution
    at hand holds, as `Facts.norm`."""


class Scope(StrEnum):
    """How much of a tensor a method must see at a time."""

    ELEMENT = "element"
    """Any block of its elements, flat: each element is merged for itself."""

    MATRIX = "matrix"
    """The whole tensor, in its shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a method may know of one contribution besides the block before it.

    Attributes:
        contribution: its name; distinct within a merge. Appears in messages, and is
            the canonical order where one is needed.
        weight: finite; zero means: not there.
        norm: Euclidean norm over all its parameters; given where the method has
            `Need.NORM`.
    """

    contribution: str
    weight: float = 1.0
    norm: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise BadOption(f"{self.contribution}: weight {self.weight} is not a finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a method may know of all contributions together, when it finishes.

    Attributes:
        count: how many contributions are in.
        weight: the sum of their weights, exact but for its last rounding.
    """

    count: int
    weight: float


class Method:
    """What all kinds share: hyperparameters, needs, scope."""

    __slots__ = ()

    needs: ClassVar[frozenset[Need]] = frozenset()

    proportional: ClassVar[bool] = False
    """Whether only the proportions of the weights matter: w and 2 w give the same."""

    @property
    def gives_back_one(self) -> bool:
        """Whether merging one contribution, of any weight, gives that contribution."""
        return False

    def scope(self, name: str, shape: Shape) -> Scope:
        """How much of the tensor of that name and shape the method sees at a time."""
        return Scope.ELEMENT


class Fold(Method, ABC):
    """Map, sum, finish: the state is a product of commutative monoids.

    `lift` and `finish` are pure functions; everything about order and removal is the
    fields' (`weft.merging.monoids`). With several phases, all contributions are lifted
    once a phase, and each phase sees what the ones before it found.
    """

    __slots__ = ()

    phases: ClassVar[int] = 1

    @abstractmethod
    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        """The fields of one tensor's state in a phase; names distinct over all phases.

        Args:
            name: of the tensor.
            shape: of the whole tensor, also when the state is for a block of it.
            phase: from zero.
        """

    @abstractmethod
    def lift(
        self, name: str, block: Tensor, facts: Facts, previous: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """One contribution as an addend for each field of the phase.

        Args:
            name: of the tensor.
            block: its task vector, float64; flat, or the whole tensor in its shape.
                Not modified; an addend may be the block itself.
            facts: of this contribution.
            previous: values of all fields of the phases before; empty in the first.

        Returns:
            Float64 for Sum, Max and Min, integer or bool for Count. An addend of a
            `scalar` field depends on `facts` only.
        """

    @abstractmethod
    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The merged task vector from the values of all fields of all phases.

        Args:
            name: of the tensor.
            state: float64; may be modified.
            totals: of all contributions.
            base: the base's block, float64, where there is one. Not modified.

        Returns:
            Float64, of the block's shape.
        """

    def state_bytes(self, name: str, shape: Shape) -> int:
        """Bytes of state that a tensor takes, all phases together."""
        return sum(state_bytes(self.fields(name, shape, i), shape) for i in range(self.phases))


class Sequential(Method, ABC):
    """Absorb one contribution after another; the result depends on their order.

    The state is a mapping of tensors that can be stored after any contribution and
    taken up again. Removal is by replay.
    """

    __slots__ = ()

    @abstractmethod
    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        """The state before the first contribution.

        Args:
            name: of the tensor.
            shape: of the blocks that will be absorbed.
            base: the base's block, float64, where there is one.
        """

    @abstractmethod
    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        """The state with one contribution more; neither argument is modified."""

    @abstractmethod
    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The merged task vector, float64, of the block's shape."""


class Joint(Method, ABC):
    """All contributions of one block at once.

    They come sorted by name, so that every node merges the same bytes whatever order
    they arrived in; an `ordered` method gets them as they were given.
    """

    __slots__ = ()

    ordered: ClassVar[bool] = False

    @abstractmethod
    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        """The merged task vector.

        Args:
            name: of the tensor.
            blocks: one task vector a contribution, float64. Not modified.
            facts: one for each block.
            base: the base's block, float64, where there is one. Not modified.

        Returns:
            Float64, of the blocks' shape.
        """


class Transform(Method, ABC):
    """Changes one task vector: a contribution's before a merge, or the merged one."""

    __slots__ = ()

    @abstractmethod
    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """The changed task vector, float64, of the block's shape; `block` is kept."""
