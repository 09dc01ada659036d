"""What a merge method is: the contracts.

All methods work on *task vectors*, D = theta - theta_0 (theta itself where there is no
base), and return the merged task vector; whoever calls adds the base and rounds once to
the output's dtype. Blocks are float64, or float32 where the caller asked for fast sums
(`weft.merging.precision`): a method computes in the dtype of the block that it is given.
It sees a block of a tensor at a time, or the whole tensor where `scope` says so. It never
sees a file, and keeps no state of its own: it is a frozen dataclass whose fields are the
hyperparameters, each declared with `weft.merging.hyperparameters.option`.

Six kinds:

    Fold         lift each contribution into the fields of a state, finish the total
    Combination  a weighted sum whose coefficients come from inner products
    Sequential   absorb one contribution after another; order matters
    Joint        all contributions of one block at once
    Transform    changes one task vector, before or after a merge
    Calibration  changes a merged task vector in view of all contributions

A fold that is made of sums merges in any order and over any topology to the same bytes,
streams in constant memory, and gives a contribution back; prefer it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar

from torch import Tensor

from weft.merging.facts import Cut, Extent, Facts, Layer, Need, TensorSums, Totals
from weft.merging.hyperparameters import check_options
from weft.merging.monoids import Field, Shape
from weft.merging.state import state_bytes

__all__ = [
    "Calibration",
    "Combination",
    "Cut",
    "Extent",
    "Facts",
    "Fold",
    "Joint",
    "Layer",
    "Method",
    "Need",
    "Scope",
    "Sequential",
    "TensorSums",
    "Totals",
    "Transform",
]


class Scope(StrEnum):
    """How much of a tensor a method must see at a time."""

    ELEMENT = "element"
    """Any block of its elements, flat: each element is merged for itself."""

    ROW = "row"
    """Whole rows: a block is (rows, columns), where a row is all but the first
    dimension; a vector is one row, (1, elements)."""

    MATRIX = "matrix"
    """The whole tensor, in its shape."""


class Method:
    """What all kinds share: hyperparameters, needs, scope."""

    __slots__ = ()

    needs: ClassVar[frozenset[Need]] = frozenset()

    cpu_only: ClassVar[bool] = False
    """Whether it computes with what only a CPU's memory holds."""

    passes_on: ClassVar[bool] = False
    """Whether a NaN or an infinity in a block always shows at its place in the result."""

    most: ClassVar[int | None] = None
    """How many contributions it takes at most; None: any number."""

    def __post_init__(self) -> None:
        check_options(self)
        self.check()

    @property
    def proportional(self) -> bool:
        """Whether only the proportions of the weights matter: w and 2 w give the same."""
        return False

    def check(self) -> None:
        """Refuse hyperparameters that do not go together.

        Raises:
            BadOption: they do not.
        """

    @property
    def gives_back_one(self) -> bool:
        """Whether merging one contribution, of any weight, gives that contribution."""
        return False

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The magnitudes that `Facts.cuts` must hold, by rank."""
        return ()

    @property
    def sees_models(self) -> bool:
        """Whether it asks for a norm, a rank or inner products over whole models."""
        return Need.NORM in self.needs or any(cut.extent is Extent.MODEL for cut in self.cuts)

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

    @property
    def phases(self) -> int:
        """How often each contribution is lifted."""
        return 1

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
            block: its task vector; flat, or as `scope` says. Not modified; an addend may
                be the block itself.
            facts: of this contribution.
            previous: values of all fields of the phases before; empty in the first.

        Returns:
            The block's dtype for Sum, Max and Min, integer or bool for Count. An addend
            of a `scalar` field depends on `facts` only.
        """

    @abstractmethod
    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The merged task vector from the values of all fields of all phases.

        Args:
            name: of the tensor.
            state: in the dtype of the blocks; may be modified.
            totals: of all contributions.
            base: the base's block, where there is one. Not modified.

        Returns:
            Of the block's dtype and shape.
        """

    def state_bytes(self, name: str, shape: Shape) -> int:
        """Bytes of state that a tensor takes, all phases together."""
        return sum(state_bytes(self.fields(name, shape, i), shape) for i in range(self.phases))


class Combination(Method, ABC):
    """sum_i c_i D_i, where the c_i come from the inner products of the task vectors.

    The products are taken over each tensor or over the whole model, as `extent` says,
    before anything is summed, so memory stays flat whatever the number of contributions.
    Contributions come sorted by name; an `ordered` method gets them as they were given.
    """

    __slots__ = ()

    ordered: ClassVar[bool] = False
    span: ClassVar[Extent] = Extent.TENSOR

    @property
    def sees_models(self) -> bool:
        """Whether its inner products are over whole models."""
        return self.span is Extent.MODEL

    @abstractmethod
    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> Sequence[float]:
        """One coefficient for each contribution; zero leaves it out.

        Args:
            gram: (n, n), float64, G_ij = <D_i, D_j> over the tensor or the model.
            facts: one for each contribution. None has a weight of zero.
        """


class Sequential(Method, ABC):
    """Absorb one contribution after another; the result depends on their order.

    The state is a mapping of tensors that can be stored after any contribution and
    taken up again. Removal is by replay.
    """

    __slots__ = ()

    keeps_mean_norm: ClassVar[bool] = False
    """Whether the merged task vector of the whole model is brought to the mean norm of the
    weighted task vectors by whoever merges: `result` is before that, since a tensor does
    not know the norm of the others (`weft.merging.mean_norm`)."""

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
        """The merged task vector, of the block's shape."""


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
            blocks: one task vector a contribution. Not modified.
            facts: one for each block.
            base: the base's block, where there is one. Not modified.

        Returns:
            Of the blocks' dtype and shape.
        """


class Transform(Method, ABC):
    """Changes one task vector: a contribution's before a merge, or the merged one.

    Facts are those of the task vector that it changes.
    """

    __slots__ = ()

    @abstractmethod
    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        """The changed task vector, of the block's dtype and shape; `block` is kept."""


class Calibration(Method, ABC):
    """Changes a merged task vector in view of those that it was merged from."""

    __slots__ = ()

    @abstractmethod
    def calibrate(
        self, name: str, merged: Tensor, blocks: Sequence[Tensor], facts: Sequence[Facts]
    ) -> Tensor:
        """The changed merged task vector; no argument is modified.

        Args:
            name: of the tensor.
            merged: the merged task vector, of the block's shape.
            blocks: one task vector a contribution, sorted by name.
            facts: one for each block.
        """
