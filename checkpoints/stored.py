"""Artifacts of the store as readers like any other: whole models, and deltas on a base."""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from weft.checkpoints.blocks import BlockReader
from weft.checkpoints.codecs.codec import ByteStream
from weft.checkpoints.codecs.registry import create
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.payload import Payload
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import Schema, TensorSpec


class StoredReader(BlockReader):
    """An artifact of plain tensors, verified chunk by chunk as it is read."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    @property
    def digest(self) -> str:
        """The artifact's name."""
        return self._payload.manifest.digest

    @property
    def schema(self) -> Schema:
        """The tensors, sorted by name."""
        return self._payload.manifest.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What was put beside the tensors."""
        return self._payload.manifest.metadata

    @property
    def where(self) -> str:
        """The artifact."""
        return f"artifact {self.digest}"

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset that begins a block."""
        self._payload.fill(spec.name, into, offset)

    def close(self) -> None:
        """Close the object; closing twice is allowed."""
        self._payload.close()


class ContributionReader:
    """A delta in the store, read as the fine-tuned model that it stands for.

    Every block is decoded when it is asked for, onto the base's block at the
    same place. Closing it leaves the base open.
    """

    def __init__(self, payload: Payload, base: TensorReader | None) -> None:
        self._payload = payload
        self._base = base
        self._codec = create(payload.manifest.codec)

    @property
    def manifest(self) -> Manifest:
        """Of the artifact."""
        return self._payload.manifest

    @property
    def schema(self) -> Schema:
        """The decoded tensors, sorted by name."""
        return self.manifest.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What was put beside the tensors."""
        return self.manifest.metadata

    def read(self, name: str) -> Tensor:
        """One tensor, whole; see `TensorReader.read`."""
        spec = self.schema[name]
        whole = torch.empty(spec.elements, dtype=TORCH_DTYPES[spec.dtype])
        filled = 0
        for block in self.blocks(name):
            whole[filled : filled + block.numel()] = block
            filled += block.numel()
        return whole.reshape(spec.shape)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks; see `TensorReader.blocks`."""
        spec = self.schema[name]
        stream = ByteStream(
            self._payload.chunks(name), f"artifact {self.manifest.digest}: tensor {name}"
        )
        base = None if self._base is None else self._base.blocks(name)
        return self._codec.decode(spec, stream, base)

    def close(self) -> None:
        """Close the object, not the base; closing twice is allowed."""
        self._payload.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
