"""Bit-exact deltas: differences of bit patterns, byte planes, zstd.

A fine-tuned value lies near its base's, so their bit patterns, read as integers,
differ by little; the difference modulo 2^k is folded so that its sign is the
lowest bit (0, -1, 1, -2, ... become 0, 1, 2, 3, ...), cut into planes of equal
bytes, and each plane is compressed where that makes it smaller. Whatever the bits
are (NaN payloads, -0.0, subnormals), they come back.

A block is framed as: number of elements (u32); then for each plane, lowest byte
first: how it is stored (u8: 0 as it is, 1 zstd), its length (u32), its bytes. All
little-endian. The bytes depend on the release of zstd: the same delta encoded
elsewhere may have another digest, and decodes to the same bits.
"""

from collections.abc import Iterable, Iterator, Mapping
from struct import Struct
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
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
from weft.checkpoints.schema import DTYPE_BYTES, TensorSpec

Word: TypeAlias = "np.dtype[np.unsignedinteger[Any]]"
Patterns: TypeAlias = "NDArray[np.unsignedinteger[Any]]"

ELEMENTS: Final = Struct("<I")
PLANE: Final = Struct("<BI")
STORED: Final = 0
COMPRESSED: Final = 1

LEVEL: Final = 1
MAX_WINDOW_BYTES: Final = 2**23

WORDS: Final[Mapping[int, Word]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}
"""The unsigned integer of as many bytes as an element has."""


class Lossless(Codec):
    """Every bit comes back."""

    name: ClassVar[str] = "lossless"

    def encode(
        self, spec: TensorSpec, finetuned: Iterable[Tensor], base: Iterable[Tensor] | None
    ) -> Iterator[Bytes]:
        """See `Codec.encode`."""
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        for block, other in beside(spec, finetuned, base):
            difference = _patterns(spec, block)
            if other is not None:
                difference = difference - _patterns(spec, other)
            yield ELEMENTS.pack(len(difference))
            for plane in _planes(_fold(difference)):
                packed = compressor.compress(plane.data)
                kept, how = (
                    (packed, COMPRESSED) if len(packed) < len(plane) else (plane.data, STORED)
                )
                yield PLANE.pack(how, len(kept))
                yield kept

    def decode(
        self, spec: TensorSpec, stream: ByteStream, base: Iterable[Tensor] | None
    ) -> Iterator[Tensor]:
        """See `Codec.decode`."""
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        word = WORDS[DTYPE_BYTES[spec.dtype]]
        for length, other in zip(block_lengths(spec), base_blocks(spec, base), strict=True):
            (claimed,) = ELEMENTS.unpack(stream.take(ELEMENTS.size))
            if claimed != length:
                raise stream.error(f"a block claims {claimed} elements, {length} expected")
            patterns = _unfold(_take_words(stream, length, word, decompressor))
            if other is not None:
                patterns = patterns + _patterns(spec, other)
            data = torch.from_numpy(patterns.view(np.uint8))
            check_booleans(spec, data, stream)
            yield data.view(TORCH_DTYPES[spec.dtype])
        stream.finish()

    def block_bytes(self, spec: TensorSpec, elements: int, offset: int, peek: Peek) -> int:
        """See `Codec.block_bytes`; the sum of the lengths that the frame tells."""
        end = offset + ELEMENTS.size
        for _ in range(DTYPE_BYTES[spec.dtype]):
            _, length = PLANE.unpack(peek(end, PLANE.size))
            end += PLANE.size + int(length)
        return end - offset

    def bound_bytes(self, spec: TensorSpec) -> int:
        """Every plane stored as it is, and the frames."""
        frame = ELEMENTS.size + DTYPE_BYTES[spec.dtype] * PLANE.size
        return spec.size_bytes + spec.blocks * frame


def _patterns(spec: TensorSpec, block: Tensor) -> Patterns:
    """The bits of a block as unsigned integers; a view where possible."""
    words: Patterns = np.frombuffer(bytes_of(block), WORDS[DTYPE_BYTES[spec.dtype]])
    return words


def _fold(difference: Patterns) -> Patterns:
    """Signed differences to unsigned, small stays small: 0, -1, 1, -2 to 0, 1, 2, 3."""
    top = difference.dtype.type(difference.dtype.itemsize * 8 - 1)
    one = difference.dtype.type(1)
    folded: Patterns = (difference << one) ^ np.negative(difference >> top)
    return folded


def _unfold(folded: Patterns) -> Patterns:
    """The inverse of `_fold`."""
    one = folded.dtype.type(1)
    difference: Patterns = (folded >> one) ^ np.negative(folded & one)
    return difference


def _planes(words: Patterns) -> Iterator[NDArray[np.uint8]]:
    """All lowest bytes, then all second ones, and so on.

    By shifts: several times as fast as transposing the bytes.
    """
    for position in range(words.dtype.itemsize):
        yield (words >> words.dtype.type(8 * position)).astype(np.uint8)


def _take_words(
    stream: ByteStream, length: int, word: Word, decompressor: zstandard.ZstdDecompressor
) -> Patterns:
    """The planes of one block put together again: the inverse of `_planes`."""
    words: Patterns = np.zeros(length, word)
    for position in range(word.itemsize):
        plane = _take_plane(stream, length, decompressor).astype(word)
        words |= plane << word.type(8 * position)
    return words


def _take_plane(
    stream: ByteStream, size: int, decompressor: zstandard.ZstdDecompressor
) -> NDArray[np.uint8]:
    """One plane; its length bounds what is read and what is made of it."""
    how, length = PLANE.unpack(stream.take(PLANE.size))
    if how == STORED and length == size:
        return np.frombuffer(stream.take(length), np.uint8)
    if how != COMPRESSED or not 0 < length < size:
        raise stream.error(f"a plane of {size} bytes claims form {how} of {length} bytes")
    return np.frombuffer(_decompress(stream, length, size, decompressor), np.uint8)


def _decompress(
    stream: ByteStream, length: int, size: int, decompressor: zstandard.ZstdDecompressor
) -> bytes:
    """One zstd frame of exactly `size` bytes; its own claims are checked first."""
    packed = bytes(stream.take(length))
    try:
        frame = zstandard.get_frame_parameters(packed)
        if frame.content_size != size or frame.window_size > MAX_WINDOW_BYTES:
            raise stream.error(
                f"a zstd frame claims {frame.content_size} bytes in a window of "
                f"{frame.window_size}; {size} expected"
            )
        return decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise stream.error(f"zstd: {error}") from error
