"""The task vector's values as they are: fine-tuned minus base, in float32.

For float64 models in float64. Integer and boolean tensors are stored as they
are. Simple, fast, and readable by anyone; not bit-exact: base plus difference is
rounded once more, so a decoded float32 value may be a unit in the last place of
the larger of the two away, and -0.0 may come back as 0.0. `lossless` is exact and
smaller.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from weft.checkpoints.codecs.codec import (
    ByteStream,
    Codec,
    Peek,
    base_blocks,
    beside,
    block_lengths,
    check_booleans,
)
from weft.checkpoints.digest import Bytes
from weft.checkpoints.dtypes import TORCH_DTYPES, bytes_of
from weft.checkpoints.schema import DTYPE_BYTES, FLOATING, TensorSpec


class Raw(Codec):
    """Differences of floating tensors, values of all others."""

    name: ClassVar[str] = "raw"

    def encode(
        self, spec: TensorSpec, finetuned: Iterable[Tensor], base: Iterable[Tensor] | None
    ) -> Iterator[Bytes]:
        """See `Codec.encode`."""
        stored = TORCH_DTYPES[_stored_dtype(spec)]
        for block, other in beside(spec, finetuned, base):
            if spec.dtype not in FLOATING or other is None:
                yield bytes_of(block.to(stored))
            else:
                yield bytes_of(block.to(stored) - other.to(stored))

    def decode(
        self, spec: TensorSpec, stream: ByteStream, base: Iterable[Tensor] | None
    ) -> Iterator[Tensor]:
        """See `Codec.decode`."""
        stored, dtype = _stored_dtype(spec), TORCH_DTYPES[spec.dtype]
        for length, other in zip(block_lengths(spec), base_blocks(spec, base), strict=True):
            data = torch.empty(length * DTYPE_BYTES[stored], dtype=torch.uint8)
            stream.take_into(data.numpy().data)
            check_booleans(spec, data, stream)
            values = data.view(TORCH_DTYPES[stored])
            if spec.dtype in FLOATING and other is not None:
                values = other.to(values.dtype) + values
            yield values.to(dtype)
        stream.finish()

    def block_bytes(self, spec: TensorSpec, elements: int, offset: int, peek: Peek) -> int:
        """See `Codec.block_bytes`; the same for every block of that length."""
        return elements * DTYPE_BYTES[_stored_dtype(spec)]

    def bound_bytes(self, spec: TensorSpec) -> int:
        """Exactly so many bytes."""
        return spec.elements * DTYPE_BYTES[_stored_dtype(spec)]


def _stored_dtype(spec: TensorSpec) -> str:
    if spec.dtype not in FLOATING:
        return spec.dtype
    return "F64" if spec.dtype == "F64" else "F32"
