"""Some of a checkpoint's tensors, seen as a checkpoint; and several seen as one.

A global merge is sharded by tensors: a share is a subset of a model, and the
merged model is the union of its shares. Both are readers like any other.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from torch import Tensor

from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import Schema


class Subset:
    """The named tensors of a reader; closing it closes nothing.

    Args:
        whole: the reader that is looked through.
        names: which of its tensors; all must exist.

    Raises:
        SchemaMismatch: a name that the reader does not have.
    """

    def __init__(self, whole: TensorReader, names: Collection[str]) -> None:
        wanted = set(names)
        kept = tuple(spec for spec in whole.schema.tensors if spec.name in wanted)
        missing = sorted(wanted - {spec.name for spec in kept})
        if missing:
            raise SchemaMismatch(f"no tensor {missing[0]!r} ({len(missing)} missing in all)")
        self._whole = whole
        self.schema = Schema(kept)
        self.metadata: Mapping[str, str] = whole.metadata

    def read(self, name: str) -> Tensor:
        """One tensor, whole."""
        return self._whole.read(name)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks."""
        return self._whole.blocks(name)

    def close(self) -> None:
        """Nothing: the whole belongs to whoever opened it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Union:
    """Readers with disjoint tensors, as one; closing it closes them.

    Raises:
        SchemaMismatch: a tensor that two of them have.
    """

    def __init__(self, parts: Sequence[TensorReader]) -> None:
        self._of: dict[str, TensorReader] = {}
        for part in parts:
            for spec in part.schema.tensors:
                if spec.name in self._of:
                    raise SchemaMismatch(f"tensor {spec.name!r} is in two parts")
                self._of[spec.name] = part
        specs = (spec for part in parts for spec in part.schema.tensors)
        self._parts = parts
        self.schema = Schema(tuple(sorted(specs, key=lambda spec: spec.name)))
        self.metadata: Mapping[str, str] = {}

    def read(self, name: str) -> Tensor:
        """One tensor, whole."""
        return self._of[name].read(name)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks."""
        return self._of[name].blocks(name)

    def close(self) -> None:
        """Close every part."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
