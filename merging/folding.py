"""Folding contributions into a method's state, one at a time.

>>> import torch
>>> from weft.merging.methods.mean import Mean
>>> state = FoldState.zero(Mean(), "fc.weight", (2,))
>>> state.add(torch.tensor([1.0, 2.0], dtype=torch.float64), Facts(contribution="a"))
>>> state.add(torch.tensor([3.0, 6.0], dtype=torch.float64), Facts(contribution="b"))
>>> state.finish().tolist()
[2.0, 4.0]
"""

from collections.abc import Mapping

from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.method import Facts, Fold
from weft.merging.monoids import Shape
from weft.merging.precision import Precision
from weft.merging.state import State
from weft.merging.tally import Tally


class FoldState:
    """One tensor, or one block of it, in one phase of a fold.

    A contribution of weight zero is none: it is neither lifted nor counted. What a
    field refuses leaves the state as it was.
    """

    def __init__(
        self, method: Fold, name: str, state: State, tally: Tally, previous: Mapping[str, Tensor]
    ) -> None:
        self._method = method
        self._name = name
        self._state = state
        self._tally = tally
        self._previous = dict(previous)

    @classmethod
    def zero(
        cls,
        method: Fold,
        name: str,
        shape: Shape,
        *,
        tensor_shape: Shape | None = None,
        phase: int = 0,
        previous: Mapping[str, Tensor] | None = None,
        precision: Precision = Precision.EXACT,
    ) -> "FoldState":
        """Nothing folded yet.

        Args:
            method: the fold.
            name: of the tensor.
            shape: of the blocks that will be added.
            tensor_shape: of the whole tensor, where `shape` is only a block of it.
            phase: from zero.
            previous: `values()` of the phase before.
            precision: of the sums; the blocks must have its dtype.
        """
        whole = shape if tensor_shape is None else tensor_shape
        fields = precision.fields(method.fields(name, whole, phase))
        return cls(method, name, State.zero(fields, shape), Tally(), previous or {})

    @property
    def count(self) -> int:
        """How many contributions are in."""
        return self._tally.totals.count

    def add(self, block: Tensor, facts: Facts) -> None:
        """Fold in one contribution's task vector, float64.

        Raises:
            NonFinite, OutOfBound, FoldFull: names contribution, tensor and value.
        """
        if facts.weight != 0:
            self._state.add(self._lift(block, facts), self._where(facts))
            self._tally.add(facts.weight)

    def take(self, block: Tensor, facts: Facts) -> None:
        """As `add`, in fewer passes over memory; an error spoils the state.

        Raises:
            NonFinite, OutOfBound, FoldFull: names contribution, tensor and value.
        """
        if facts.weight != 0:
            self._state.take(self._lift(block, facts), self._where(facts))
            self._tally.add(facts.weight)

    def remove(self, block: Tensor, facts: Facts) -> None:
        """Take out a contribution that was added with the same block and facts.

        Raises:
            NotRemovable: a field cannot remove, or there is nothing of that size in it.
        """
        if facts.weight != 0:
            self._tally.require_member(self._where(facts))
            self._state.remove(self._lift(block, facts), self._where(facts))
            self._tally.remove(facts.weight)

    def combine(self, other: "FoldState") -> None:
        """Fold in all that another state of the same method and tensor holds.

        Raises:
            CannotMerge: of another method, another tensor or another phase.
        """
        if other._method != self._method or other._name != self._name:
            raise CannotMerge(
                f"a state of {other._method} for {other._name!r} does not fit one of"
                f" {self._method} for {self._name!r}"
            )
        self._state.combine(other._state, f"tensor {self._name!r}")
        self._tally.combine(other._tally)

    def values(self) -> dict[str, Tensor]:
        """Values of all fields of this phase and the ones before it."""
        return {**self._previous, **self._state.values()}

    def finish(self, base: Tensor | None = None) -> Tensor:
        """The merged task vector.

        Raises:
            CannotMerge: nothing of non-zero weight has been added.
        """
        totals = self._tally.totals
        if totals.count == 0:
            raise CannotMerge(f"tensor {self._name!r}: no contribution has a weight but zero")
        return self._method.finish(self._name, self.values(), totals, base)

    def to_tensors(self) -> dict[str, Tensor]:
        """This phase's state as named tensors; equal states give equal bytes."""
        return {**self._state.to_tensors(), **self._tally.to_tensors()}

    @classmethod
    def from_tensors(
        cls,
        method: Fold,
        name: str,
        shape: Shape,
        tensors: Mapping[str, Tensor],
        *,
        tensor_shape: Shape | None = None,
        precision: Precision = Precision.EXACT,
    ) -> "FoldState":
        """The state of a first phase that `to_tensors` wrote; see `zero`.

        Raises:
            CorruptState: a tensor is missing, or not of the right shape and dtype.
        """
        where = f"tensor {name!r}"
        whole = shape if tensor_shape is None else tensor_shape
        fields = precision.fields(method.fields(name, whole))
        state = State.from_tensors(fields, shape, tensors, where)
        return cls(method, name, state, Tally.from_tensors(tensors, where), {})

    def _lift(self, block: Tensor, facts: Facts) -> Mapping[str, Tensor]:
        return self._method.lift(self._name, block, facts, self._previous)

    def _where(self, facts: Facts) -> str:
        return f"{facts.contribution}, tensor {self._name!r}"
