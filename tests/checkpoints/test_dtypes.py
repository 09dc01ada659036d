"""Every dtype has one name, and its bytes are those that a file holds."""

import struct

import pytest
import torch

from weft.checkpoints.dtypes import DTYPE_NAMES, TORCH_DTYPES, bytes_of, schema_of, spec_of
from weft.checkpoints.errors import BadSchema, BadTensor
from weft.checkpoints.schema import DTYPE_BYTES, FLOATING, TensorSpec


def test_the_tables_agree() -> None:
    assert TORCH_DTYPES.keys() == DTYPE_BYTES.keys()
    assert len(DTYPE_NAMES) == len(TORCH_DTYPES)
    for name, dtype in TORCH_DTYPES.items():
        assert dtype.itemsize == DTYPE_BYTES[name]
        assert dtype.is_floating_point == (name in FLOATING)


def test_spec_of_a_tensor() -> None:
    assert spec_of("w", torch.zeros(2, 3, dtype=torch.bfloat16)) == TensorSpec("w", "BF16", (2, 3))
    assert schema_of({"b": torch.tensor(1), "a": torch.zeros(0)}).names == ("a", "b")
    with pytest.raises(BadTensor, match=r"complex64.*torch\.float32"):
        spec_of("w", torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(BadSchema):
        spec_of("../w", torch.zeros(1))


def test_bytes_by_hand() -> None:
    assert bytes(bytes_of(torch.tensor([1.0, -2.5]))) == struct.pack("<2f", 1.0, -2.5)
    assert bytes(bytes_of(torch.tensor(258, dtype=torch.int16))) == b"\x02\x01"
    assert bytes(bytes_of(torch.tensor([True, False]))) == b"\x01\x00"
    assert bytes(bytes_of(torch.zeros(0, 3))) == b""
    column = torch.arange(4.0).reshape(2, 2).t()
    assert bytes(bytes_of(column)) == struct.pack("<4f", 0.0, 2.0, 1.0, 3.0)


def test_bytes_are_a_view_where_they_can_be() -> None:
    tensor = torch.zeros(4, dtype=torch.uint8)
    bytes_of(tensor)[2] = 7
    assert tensor.tolist() == [0, 0, 7, 0]
