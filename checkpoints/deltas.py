"""Readers that know a task vector more exactly than the model it leads to."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.schema import Schema, TensorSpec


class DeltaReader(RangeReader):
    """A fine-tuned model whose task vector is at hand without the rounding of the model.

    An adapter, for instance: base plus B A, rounded to the base's dtype, would lose most
    of a small B A.
    """

    decodes: ClassVar[bool] = True

    @abstractmethod
    def delta_ranges(
        self, name: str, start: int, stop: int, step: int, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """As `ranges`, but of the task vector, in the dtype asked for."""


class ModelReader(RangeReader):
    """Another reader's models and nothing else: its task vectors are not used."""

    decodes: ClassVar[bool] = True

    def __init__(self, inner: RangeReader) -> None:
        self._inner = inner

    @property
    def schema(self) -> Schema:
        """The tensors, sorted by name."""
        return self._inner.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the writer noted beside the tensors."""
        return self._inner.metadata

    @property
    def where(self) -> str:
        """What is read."""
        return self._inner.where

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset that begins an element."""
        self._inner.fill(spec, into, offset)

    def close(self) -> None:
        """Close the inner reader."""
        self._inner.close()
