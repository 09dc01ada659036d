"""What compression leaves of a vector, and how many bytes it takes.

By the codecs of the wire, or by sparsification, which is none of them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from weft.checkpoints.codecs.codec import ByteStream, Codec
from weft.checkpoints.codecs.registry import create, names
from weft.checkpoints.dtypes import spec_of
from weft.checkpoints.schema import BLOCK_ELEMENTS, TensorSpec
from weft.simulations.learning.traffic import FLOAT32
from weft.topology.errors import BadOption, unknown

INDEX_BYTES = 4.0
"""Of an element's place."""

TOP_K = "top_k"


class Compressor(Protocol):
    """What a message keeps of a vector."""

    def kept(self, vector: Tensor) -> Tensor:
        """What arrives of a vector (P,): the same shape and dtype; the vector stays."""
        ...

    def message_bytes(self, size: int) -> float:
        """The most bytes of a message, for a vector of so many elements."""
        ...


@dataclass(frozen=True, slots=True)
class Wire:
    """A codec of the daemon's own, as for a model that is one tensor.

    Attributes:
        codec: encodes every vector, and decodes it.
    """

    codec: Codec

    def kept(self, vector: Tensor) -> Tensor:
        """Encoded and decoded again, a block at a time."""
        spec = spec_of("vector", vector)
        encoded = self.codec.encode(spec, torch.split(vector.cpu(), BLOCK_ELEMENTS), None)
        blocks = self.codec.decode(spec, ByteStream(encoded, "vector"), None)
        return torch.cat(list(blocks)).to(vector.device)

    def message_bytes(self, size: int) -> float:
        """What the codec promises for float32; int8 and raw take just that."""
        return float(self.codec.bound_bytes(TensorSpec("vector", "F32", (size,))))


@dataclass(frozen=True, slots=True)
class TopK:
    """The elements of largest magnitude, each with its place in four bytes.

    Not a codec of the wire: what such a one would move.

    Attributes:
        density: the share that is kept, at least one element.
    """

    density: float

    def kept(self, vector: Tensor) -> Tensor:
        """Those elements; zero elsewhere."""
        places = vector.abs().topk(self._count(vector.numel())).indices
        return torch.zeros_like(vector).index_copy_(0, places, vector[places])

    def message_bytes(self, size: int) -> float:
        """A float32 and a place for each element that is kept."""
        return self._count(size) * (FLOAT32 + INDEX_BYTES)

    def _count(self, size: int) -> int:
        return max(1, round(self.density * size))


def compressor(name: str, density: float) -> Compressor:
    """The codec of a name, or "top_k", which keeps a share of `density`.

    Raises:
        BadOption: there is none; names the nearest.
    """
    if name == TOP_K:
        return TopK(density)
    if name not in names():
        raise BadOption(unknown("codec", name, [*names(), TOP_K]))
    return Wire(create(name))
