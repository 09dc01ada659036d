"""What a stream of contributions keeps of one tensor: folds and sequential methods alike.

The state is constant in the number of contributions, can be stored after any of them and
taken up again, and goes on as if it had never been put away.

>>> import torch
>>> from weft.merging.methods.mean import Mean
>>> state = StreamState.zero(Mean(), Place("fc.weight", (2,), (2,)))
>>> state.add(torch.tensor([1.0, 2.0], dtype=torch.float64), Facts(contribution="a"))
>>> state.add(torch.tensor([3.0, 6.0], dtype=torch.float64), Facts(contribution="b"))
>>> state.merged(None).tolist()
[2.0, 4.0]
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from weft.merging.errors import CannotMerge, CorruptState, NotRemovable
from weft.merging.folding import FoldState
from weft.merging.method import Facts, Fold, Method, Sequential
from weft.merging.monoids import Shape
from weft.merging.precision import Precision
from weft.merging.tally import Tally

TALLY_BYTES: Final = 280
"""Of the count and the sum of weights, kept beside every tensor's state."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which tensor a state is for.

    Attributes:
        name: of the tensor.
        tensor_shape: of the tensor.
        shape: in which the method sees it: flat, rows, or as it is (`Method.scope`).
        precision: of sums; blocks come in its dtype.
    """

    name: str
    tensor_shape: Shape
    shape: Shape
    precision: Precision = Precision.EXACT


class StreamState(ABC):
    """What is kept of one tensor; see the head of this module."""

    @staticmethod
    def zero(method: Method, place: Place, base: Tensor | None = None) -> "StreamState":
        """Nothing absorbed yet.

        Args:
            method: a fold of one phase, or a sequential method.
            place: which tensor.
            base: the base's tensor in the place's shape, where there is one.

        Raises:
            CannotMerge: the method cannot stream; says why.
        """
        require_streaming(method)
        if isinstance(method, Fold):
            state = FoldState.zero(
                method,
                place.name,
                place.shape,
                tensor_shape=place.tensor_shape,
                precision=place.precision,
            )
            return _Folded(state)
        if isinstance(method, Sequential):
            return _Absorbed(method, place, method.init(place.name, place.shape, base), Tally())
        raise CannotMerge(f"{type(method).__name__} does not stream")

    @staticmethod
    def restored(method: Method, place: Place, tensors: Mapping[str, Tensor]) -> "StreamState":
        """The state that `to_tensors` wrote.

        Raises:
            CorruptState: a tensor is missing, or not of the right shape and dtype.
        """
        if isinstance(method, Fold):
            state = FoldState.from_tensors(
                method,
                place.name,
                place.shape,
                tensors,
                tensor_shape=place.tensor_shape,
                precision=place.precision,
            )
            return _Folded(state)
        if isinstance(method, Sequential):
            return _Absorbed.from_tensors(method, place, tensors)
        raise CannotMerge(f"{type(method).__name__} does not stream")

    @abstractmethod
    def add(self, block: Tensor, facts: Facts) -> None:
        """Absorb one contribution's task vector; an error spoils the state."""

    @abstractmethod
    def remove(self, block: Tensor, facts: Facts) -> None:
        """Take out a contribution that was added with the same block and facts.

        Raises:
            NotRemovable: the method cannot, or it is not in there.
        """

    @abstractmethod
    def merged(self, base: Tensor | None) -> Tensor:
        """The merged task vector, in the place's shape."""

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """The state as named tensors; equal states give equal bytes, always of one schema."""


class _Folded(StreamState):
    def __init__(self, state: FoldState) -> None:
        self._state = state

    def add(self, block: Tensor, facts: Facts) -> None:
        self._state.take(block, facts)

    def remove(self, block: Tensor, facts: Facts) -> None:
        self._state.remove(block, facts)

    def merged(self, base: Tensor | None) -> Tensor:
        return self._state.finish(base)

    def to_tensors(self) -> dict[str, Tensor]:
        return self._state.to_tensors()


class _Absorbed(StreamState):
    def __init__(
        self, method: Sequential, place: Place, state: dict[str, Tensor], tally: Tally
    ) -> None:
        self._method, self._place = method, place
        self._state, self._tally = state, tally

    @classmethod
    def from_tensors(
        cls, method: Sequential, place: Place, tensors: Mapping[str, Tensor]
    ) -> "_Absorbed":
        where = f"tensor {place.name!r}"
        state = {}
        for name, example in method.init(place.name, place.shape, None).items():
            found = tensors.get(name)
            if found is None or found.shape != example.shape:
                raise CorruptState(f"{where}: the state has no {name!r} of {tuple(example.shape)}")
            state[name] = found.to(example.dtype)
        return cls(method, place, state, Tally.from_tensors(tensors, where))

    def add(self, block: Tensor, facts: Facts) -> None:
        if facts.weight == 0:
            return
        wide = block.to(torch.float64)
        state = self._method.absorb(self._place.name, self._state, wide, facts)
        # As it would be stored: whoever is taken up again goes on like whoever never stopped.
        self._state = {name: self._kept(value).to(value.dtype) for name, value in state.items()}
        self._tally.add(facts.weight)

    def _kept(self, value: Tensor) -> Tensor:
        return value.float() if self._place.precision is Precision.FLOAT32 else value

    def remove(self, block: Tensor, facts: Facts) -> None:
        raise NotRemovable(
            f"{facts.contribution}, tensor {self._place.name!r}: what"
            f" {type(self._method).__name__} absorbed can only be left out of a replay"
        )

    def merged(self, base: Tensor | None) -> Tensor:
        totals = self._tally.totals
        if totals.count == 0:
            raise CannotMerge(f"tensor {self._place.name!r}: nothing has been absorbed")
        return self._method.result(self._place.name, self._state, totals)

    def to_tensors(self) -> dict[str, Tensor]:
        state = {name: self._kept(value) for name, value in self._state.items()}
        return {**state, **self._tally.to_tensors()}


def require_streaming(method: Method) -> None:
    """Refuse methods that a stream cannot feed: one look at each contribution is all it has.

    Raises:
        CannotMerge: says why.
    """
    name = type(method).__name__
    if isinstance(method, Fold) and method.phases > 1:
        raise CannotMerge(
            f"{name} looks at every contribution {method.phases} times; a stream shows each once:"
            " choose a fold of one phase or a sequential method"
        )
    if not isinstance(method, Fold | Sequential):
        raise CannotMerge(
            f"{name} needs all contributions at once, so its state would grow with their number:"
            " choose a fold or a sequential method"
        )


def removes_exactly(method: Method, precision: Precision) -> bool:
    """Whether taking a contribution out gives the bytes that would be without it."""
    if not isinstance(method, Fold) or precision is not Precision.EXACT:
        return False
    shapes = [(2, 2), (2,)]
    fields = [field for shape in shapes for field in method.fields("w", shape).values()]
    return all(field.removable for field in fields)


def kept_bytes(method: Method, name: str, shape: Shape, precision: Precision) -> int:
    """Bytes of state that a stream keeps of a tensor, however many contributions come."""
    require_streaming(method)
    if isinstance(method, Fold):
        fields = precision.fields(method.fields(name, shape))
        return TALLY_BYTES + sum(field.state_bytes(shape) for field in fields.values())
    if not isinstance(method, Sequential):
        raise CannotMerge(f"{type(method).__name__} does not stream")
    width = precision.dtype.itemsize
    with torch.device("meta"):
        state = method.init(name, shape, None)
    return TALLY_BYTES + sum(value.numel() * width for value in state.values())
