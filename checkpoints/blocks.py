"""Readers whose tensors are plain bytes somewhere: the part that they share.

Bytes go into buffers of our own; blocks of one tensor share one buffer, so memory
stays flat. `MemoryReader` is the twin of a file, for tensors that are at hand.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self

import torch
from torch import Tensor

from weft.checkpoints.dtypes import TORCH_DTYPES, bytes_of, schema_of
from weft.checkpoints.errors import MalformedFile
from weft.checkpoints.schema import BLOCK_ELEMENTS, DTYPE_BYTES, Schema, TensorSpec


class BlockReader(ABC):
    """A reader whose tensors lie somewhere as plain bytes; subclasses fetch them."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The tensors, sorted by name."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """What the writer noted beside the tensors."""

    @abstractmethod
    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset that begins a block.

        A `RangeReader` takes any offset that begins an element.
        """

    @property
    @abstractmethod
    def where(self) -> str:
        """What is read, for messages."""

    @abstractmethod
    def close(self) -> None:
        """Give back the files; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, name: str) -> Tensor:
        """One tensor, whole, in memory of its own; see `TensorReader.read`."""
        spec = self.schema[name]
        data = torch.empty(spec.size_bytes, dtype=torch.uint8)
        if spec.size_bytes:
            self._fill_checked(spec, data, 0)
        return data.view(TORCH_DTYPES[spec.dtype]).reshape(spec.shape)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks in one buffer; see `TensorReader.blocks`."""
        spec = self.schema[name]
        step = BLOCK_ELEMENTS * DTYPE_BYTES[spec.dtype]
        buffer = torch.empty(min(step, spec.size_bytes), dtype=torch.uint8)
        for offset in range(0, spec.size_bytes, step):
            block = buffer[: min(step, spec.size_bytes - offset)]
            self._fill_checked(spec, block, offset)
            yield block.view(TORCH_DTYPES[spec.dtype])

    def _fill_checked(self, spec: TensorSpec, data: Tensor, offset: int) -> None:
        self.fill(spec, data.numpy().data, offset)
        if spec.dtype == "BOOL" and bool((data > 1).any()):
            raise MalformedFile(
                f"{self.where}: tensor {spec.name} is boolean and holds other bytes than 0 and 1"
            )


class RangeReader(BlockReader):
    """A reader that fetches any range of a tensor at the same cost per byte.

    Attributes:
        pinned: whether buffers are page-locked, so that a GPU reads them at full speed.
        decodes: whether a range is worked out, so that reading it twice is to be avoided.
    """

    pinned: bool = False
    decodes: ClassVar[bool] = False

    def ranges(self, name: str, start: int, stop: int, step: int) -> Iterator[Tensor]:
        """Elements `start` to `stop` of one tensor, flat, in blocks of `step` elements.

        A block is valid until the next one is asked for. Several threads may read at
        once.

        Raises:
            MissingTensor: no tensor of that name.
            Corrupt: the bytes are not what they claim to be.
        """
        spec = self.schema[name]
        width = DTYPE_BYTES[spec.dtype]
        buffer = self._buffer(min(step, stop - start) * width)
        for first in range(start, stop, step):
            block = buffer[: (min(first + step, stop) - first) * width]
            self._fill_checked(spec, block, first * width)
            yield block.view(TORCH_DTYPES[spec.dtype])

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of one tensor, flat, in memory of their own.

        Raises:
            MissingTensor: no tensor of that name.
            Corrupt: the bytes are not what they claim to be.
        """
        spec = self.schema[name]
        width = DTYPE_BYTES[spec.dtype]
        data = self._buffer((stop - start) * width)
        self._fill_checked(spec, data, start * width)
        return data.view(TORCH_DTYPES[spec.dtype])

    def _buffer(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)


class MemoryReader(RangeReader):
    """Tensors in memory, read like any checkpoint: what is read are copies."""

    def __init__(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        self._tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
        }
        self._schema = schema_of(self._tensors)
        self._metadata = MappingProxyType(dict(metadata or {}))

    @property
    def schema(self) -> Schema:
        """The tensors, sorted by name."""
        return self._schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What was given beside the tensors."""
        return self._metadata

    @property
    def where(self) -> str:
        """Memory has no path."""
        return "tensors in memory"

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Copy a tensor's bytes from an offset within it."""
        into[:] = bytes_of(self._tensors[spec.name])[offset : offset + len(into)]

    def close(self) -> None:
        """Nothing to give back."""
