"""Every bit comes back; and no claim of the bytes is believed."""

import tracemalloc

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints.codecs.test_codec import decoded, encoded
from tests.checkpoints.crafted import bits, random_tensor
from weft.checkpoints.codecs.lossless import ELEMENTS, PLANE, _fold, _unfold
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import BadEncoding
from weft.checkpoints.schema import BLOCK_ELEMENTS, DTYPE_BYTES, TensorSpec

DTYPES = sorted(DTYPE_BYTES)
BYTES = TensorSpec("w", "U8", (1000,))


@given(st.data(), st.sampled_from(DTYPES), st.integers(0, 40))
def test_any_bits_on_any_bits(data: st.DataObject, dtype: str, elements: int) -> None:
    spec = TensorSpec("w", dtype, (elements,))
    values = st.lists(
        st.integers(0, 1 if dtype == "BOOL" else 255),
        min_size=spec.size_bytes,
        max_size=spec.size_bytes,
    ).map(bytes)

    def tensor() -> torch.Tensor:
        raw = data.draw(values)
        return torch.tensor(list(raw), dtype=torch.uint8).view(TORCH_DTYPES[dtype])

    finetuned, base = tensor(), tensor()
    for other in (None, base):
        found = decoded("lossless", spec, [encoded("lossless", spec, finetuned, other)], other)
        assert found == bits(finetuned)


SPECIAL = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 3.4028235e38, torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_special_values_against_each_other(dtype: str) -> None:
    values = torch.tensor(SPECIAL, dtype=torch.float64).to(TORCH_DTYPES[dtype])
    nan = torch.tensor([torch.nan], dtype=TORCH_DTYPES[dtype])
    payload = torch.full_like(nan.view(torch.uint8), 0xFF).view(TORCH_DTYPES[dtype])
    values = torch.cat([values, nan, payload, -nan])
    tensor = values.repeat(len(values))
    base = values.repeat_interleave(len(values))
    spec = TensorSpec("w", dtype, (len(tensor),))
    data = encoded("lossless", spec, tensor, base)
    assert decoded("lossless", spec, [data], base) == bits(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_blocks_of_random_bits(dtype: str) -> None:
    spec = TensorSpec("w", dtype, (BLOCK_ELEMENTS + 9,))
    tensor, base = random_tensor(spec, 1), random_tensor(spec, 2)
    data = encoded("lossless", spec, tensor, base)
    assert decoded("lossless", spec, [data], base) == bits(tensor)


@pytest.mark.parametrize("word", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_folding_keeps_small_differences_small(word: type[np.unsignedinteger]) -> None:
    signed = np.array([0, -1, 1, -2, 2, -3], dtype=np.int64)
    top = np.array([np.iinfo(word).max // 2, np.iinfo(word).max // 2 + 1], dtype=word)
    differences = np.concatenate([signed.astype(word), top])
    folded = _fold(differences)
    assert folded[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert folded[6:].tolist() == [np.iinfo(word).max - 1, np.iinfo(word).max]
    assert _unfold(folded).tolist() == differences.tolist()


def test_bytes_by_hand() -> None:
    """Three int16 that grow by 1, -1 and 256: folded 2, 1, 512; low plane, high plane."""
    spec = TensorSpec("w", "I16", (3,))
    base = torch.tensor([10, 10, 10], dtype=torch.int16)
    tensor = torch.tensor([11, 9, 266], dtype=torch.int16)
    expected = (
        ELEMENTS.pack(3) + PLANE.pack(0, 3) + bytes([2, 1, 0]) + PLANE.pack(0, 3) + bytes([0, 0, 2])
    )
    assert encoded("lossless", spec, tensor, base) == expected


def test_small_steps_of_training_become_small() -> None:
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(200_000, generator=generator)
    tensor = base + 1e-5 * torch.randn(200_000, generator=generator)
    for dtype, name, most in ((torch.float32, "F32", 0.60), (torch.bfloat16, "BF16", 0.15)):
        spec = TensorSpec("w", name, (200_000,))
        data = encoded("lossless", spec, tensor.to(dtype), base.to(dtype))
        assert len(data) < most * spec.size_bytes
        assert decoded("lossless", spec, [data], base.to(dtype)) == bits(tensor.to(dtype))


def framed(plane: bytes, *, how: int = 1, elements: int = 1000, length: int | None = None) -> bytes:
    claimed = len(plane) if length is None else length
    return ELEMENTS.pack(elements) + PLANE.pack(how, claimed) + plane


def packed(size: int, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(b"\x00" * size)


def streamed(size: int) -> bytes:
    """A frame without its content's size."""
    return packed(size, sized=False)


def wide_window() -> bytes:
    """A frame of 1,000 bytes that asks for a window of 2^31: magic, descriptor, window, block."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0b01000000, 21 << 3]) + (1000 - 256).to_bytes(2, "little")
    repeated_byte = (1000 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\x00"
    return head + repeated_byte


REFUSED = {
    "bomb": framed(packed(10**8)),
    "less than claimed": framed(packed(999)),
    "more than claimed": framed(packed(1001)),
    "no size in the frame": framed(streamed(1000)),
    "wide window": framed(wide_window()),
    "two frames": framed(packed(500) * 2),
    "frame and skippable frame": framed(packed(1000) + b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"),
    "skippable frame only": framed(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"),
    "bytes behind the frame": framed(packed(1000) + b"\x00"),
    "cut frame": framed(packed(1000)[:-1]),
    "no zstd": framed(b"hello world"),
    "form unknown": framed(b"\x00" * 1000, how=2),
    "stored too short": framed(b"\x00" * 999, how=0),
    "stored too long": framed(b"\x00" * 1001, how=0),
    "length 0": framed(b"", how=1),
    "length 2^32-1": framed(b"", how=1, length=2**32 - 1),
    "elements 0": framed(packed(1000), elements=0),
    "elements 2^32-1": framed(packed(1000), elements=2**32 - 1),
    "another block": framed(packed(1000)) * 2,
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED)
def test_claims_are_checked_before_they_cost(name: str) -> None:
    data = REFUSED[name]
    tracemalloc.start()
    with pytest.raises(BadEncoding, match="artifact x: "):
        decoded("lossless", BYTES, [data], None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_honest_frame_is_read() -> None:
    assert decoded("lossless", BYTES, [framed(packed(1000))], None) == b"\x00" * 1000
