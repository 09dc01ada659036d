"""The task vector in eight bits an element: an integer for each, a step for each 128.

Lossy: an element is off by at most half a step, 1/254 of the largest magnitude among the
128 elements around it, and what is decoded is rounded to the model's dtype. A quarter of
`raw`, half of a bfloat16 model, whatever is in it. Integer and boolean tensors are stored
as they are.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

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
from weft.checkpoints.errors import BadTensor
from weft.checkpoints.schema import DTYPE_BYTES, FLOATING, TensorSpec

GROUP: Final = 128
LARGEST: Final = 127
STEP_BYTES: Final = 4


class Int8(Codec):
    """Steps of a block's groups, float32, then its integers."""

    name: ClassVar[str] = "int8"

    def encode(
        self, spec: TensorSpec, finetuned: Iterable[Tensor], base: Iterable[Tensor] | None
    ) -> Iterator[Bytes]:
        """See `Codec.encode`.

        Raises:
            BadTensor: a NaN or an infinity; no step would do.
        """
        for block, other in beside(spec, finetuned, base):
            if spec.dtype not in FLOATING:
                yield bytes_of(block)
                continue
            delta = block.to(torch.float64)
            delta = (delta if other is None else delta - other.to(torch.float64)).float()
            steps, integers = _quantised(delta)
            if not bool(steps.isfinite().all()):
                raise BadTensor(f"tensor {spec.name}: int8 codes finite numbers only")
            yield bytes_of(steps)
            yield bytes_of(integers)

    def decode(
        self, spec: TensorSpec, stream: ByteStream, base: Iterable[Tensor] | None
    ) -> Iterator[Tensor]:
        """See `Codec.decode`."""
        dtype = TORCH_DTYPES[spec.dtype]
        for length, other in zip(block_lengths(spec), base_blocks(spec, base), strict=True):
            if spec.dtype not in FLOATING:
                data = _taken(stream, length * DTYPE_BYTES[spec.dtype])
                check_booleans(spec, data, stream)
                yield data.view(dtype)
                continue
            steps = _taken(stream, _groups(length) * STEP_BYTES).view(torch.float32)
            if not bool(steps.isfinite().all()) or bool((steps < 0).any()):
                raise stream.error("a step that is negative, or no finite number")
            integers = _taken(stream, length).view(torch.int8)
            delta = integers.double() * steps.double().repeat_interleave(GROUP)[:length]
            values = delta if other is None else delta + other.to(torch.float64)
            # To eight and sixteen bits by way of float32, as torch rounds.
            yield values.to(dtype)
        stream.finish()

    def block_bytes(self, spec: TensorSpec, elements: int, offset: int, peek: Peek) -> int:
        """See `Codec.block_bytes`; the same for every block of that length."""
        if spec.dtype not in FLOATING:
            return elements * DTYPE_BYTES[spec.dtype]
        return elements + _groups(elements) * STEP_BYTES

    def bound_bytes(self, spec: TensorSpec) -> int:
        """Exactly so many bytes."""
        return sum(self.block_bytes(spec, n, 0, lambda *_: b"") for n in block_lengths(spec))


def _groups(elements: int) -> int:
    return -(-elements // GROUP)


def _quantised(delta: Tensor) -> tuple[Tensor, Tensor]:
    """Steps (groups,) float32 and integers (elements,) int8 of a flat block, float32."""
    groups = _groups(delta.numel())
    rows = pad(delta, (0, groups * GROUP - delta.numel())).reshape(groups, GROUP)
    steps = rows.abs().amax(1) / LARGEST
    inverse = torch.where(steps > 0, 1 / steps.double(), 0.0)
    integers = (rows.double() * inverse[:, None]).round_().clamp_(-LARGEST, LARGEST)
    return steps, integers.to(torch.int8).reshape(-1)[: delta.numel()].contiguous()


def _taken(stream: ByteStream, count: int) -> Tensor:
    data = torch.empty(count, dtype=torch.uint8)
    stream.take_into(data.numpy().data)
    return data
