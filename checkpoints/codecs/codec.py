"""The contract of codecs: one tensor's blocks to bytes, and back.

A codec sees a tensor as flat blocks of `BLOCK_ELEMENTS` elements, together with
the base's block at the same place, or with None where there is no base. Encoded
bytes are trusted in nothing: every codec bounds what it allocates by the spec.
Stable.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from weft.checkpoints.digest import Bytes
from weft.checkpoints.errors import BadEncoding, BadTensor, UnknownCodec
from weft.checkpoints.schema import BLOCK_ELEMENTS, TensorSpec

Peek: TypeAlias = Callable[[int, int], bytes]
"""Some of a tensor's encoded bytes: from an offset, so many."""


class ByteStream:
    """Encoded bytes, taken in the lengths that a decoder needs.

    Args:
        parts: the bytes in parts of any length; a part is used up before the
            next one is asked for, so its buffer may be used again.
        where: what is read, for messages.
    """

    def __init__(self, parts: Iterable[Bytes], where: str) -> None:
        self._parts = iter(parts)
        self._rest = memoryview(b"")
        self._where = where

    def take(self, count: int) -> bytearray:
        """Exactly so many bytes; the caller has bounded the count.

        Raises:
            BadEncoding: the stream ends before.
        """
        taken = bytearray(count)
        self.take_into(memoryview(taken))
        return taken

    def take_into(self, into: memoryview) -> None:
        """Fill a buffer of bytes.

        Raises:
            BadEncoding: the stream ends before.
        """
        filled = 0
        while filled < len(into):
            if not len(self._rest):
                self._rest = self._next(len(into) - filled)
            piece = self._rest[: len(into) - filled]
            into[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._rest = self._rest[len(piece) :]

    def _next(self, lacking: int) -> memoryview:
        for part in self._parts:
            if len(part):
                return memoryview(part)
        raise self.error(f"the encoded bytes end, {lacking} more expected")

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            BadEncoding: bytes that belong to nothing.
        """
        left = len(self._rest) or next((len(part) for part in self._parts if len(part)), 0)
        if left:
            raise self.error("bytes are left after the last block")

    def error(self, fault: str) -> BadEncoding:
        """The error for a fault found in this stream, to be raised."""
        return BadEncoding(f"{self._where}: {fault}")


class Codec(ABC):
    """Turns fine-tuned blocks into bytes and back, given the base's blocks."""

    name: ClassVar[str]

    @abstractmethod
    def encode(
        self, spec: TensorSpec, finetuned: Iterable[Tensor], base: Iterable[Tensor] | None
    ) -> Iterator[Bytes]:
        """The bytes of one tensor, in parts; a part is valid until the next.

        Args:
            spec: the tensor; finetuned and base have its dtype.
            finetuned: its flat blocks.
            base: the base's, or None: zero everywhere.

        Raises:
            BadTensor: the two have blocks of different lengths.
        """

    @abstractmethod
    def decode(
        self, spec: TensorSpec, stream: ByteStream, base: Iterable[Tensor] | None
    ) -> Iterator[Tensor]:
        """The flat blocks of the fine-tuned tensor; reads the stream to its end.

        Memory: a few blocks, whatever the stream says.

        Raises:
            BadEncoding: the bytes are not those of such a tensor.
        """

    def block_bytes(self, spec: TensorSpec, elements: int, offset: int, peek: Peek) -> int:
        """How many bytes a block's encoding takes, from its frame alone.

        A codec that can say so can be read from the middle: blocks decode by themselves.

        Args:
            spec: the tensor.
            elements: of the block.
            offset: where the block begins in the tensor's encoded bytes.
            peek: gives some of them.

        Raises:
            UnknownCodec: blocks of this codec cannot be found without decoding all before.
        """
        raise UnknownCodec(f"codec {self.name} cannot be read from the middle of a tensor")

    @abstractmethod
    def bound_bytes(self, spec: TensorSpec) -> int:
        """The most bytes that this codec makes of such a tensor."""


def block_lengths(spec: TensorSpec) -> Iterator[int]:
    """Elements of each flat block of a tensor."""
    for start in range(0, spec.elements, BLOCK_ELEMENTS):
        yield min(BLOCK_ELEMENTS, spec.elements - start)


def beside(
    spec: TensorSpec, finetuned: Iterable[Tensor], base: Iterable[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of a tensor with those of its base, checked to lie side by side.

    Raises:
        BadTensor: a block is missing or has another length.
    """
    others: Iterator[Tensor | None] = iter(base) if base is not None else repeat(None)
    blocks = iter(finetuned)
    for length in block_lengths(spec):
        block, other = next(blocks, None), next(others, None)
        if block is None or block.numel() != length:
            raise BadTensor(f"tensor {spec.name}: no block of {length} elements where one belongs")
        check_base_block(spec, other, length, given=base is not None)
        yield block, other
    if next(blocks, None) is not None:
        raise BadTensor(f"tensor {spec.name}: more than its {spec.elements} elements")


def base_blocks(spec: TensorSpec, base: Iterable[Tensor] | None) -> Iterator[Tensor | None]:
    """The base's blocks, checked to have the lengths of the tensor's; or None for each.

    Raises:
        BadTensor: a block is missing or has another length.
    """
    others: Iterator[Tensor | None] = iter(base) if base is not None else repeat(None)
    for length in block_lengths(spec):
        other = next(others, None)
        check_base_block(spec, other, length, given=base is not None)
        yield other


def check_base_block(spec: TensorSpec, block: Tensor | None, length: int, *, given: bool) -> None:
    """Check that a base's block has the expected length.

    Raises:
        BadTensor: it is missing or has another length.
    """
    if given and (block is None or block.numel() != length):
        raise BadTensor(f"tensor {spec.name}: the base has no block of {length} elements there")


def check_booleans(spec: TensorSpec, data: Tensor, stream: ByteStream) -> None:
    """Check that the bytes of a boolean tensor are 0 and 1.

    Raises:
        BadEncoding: another byte; torch would not know what it means.
    """
    if spec.dtype == "BOOL" and bool((data.view(torch.uint8) > 1).any()):
        raise stream.error("boolean, with other bytes than 0 and 1")
