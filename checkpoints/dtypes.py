"""The dtypes of safetensors and of torch: one table, both ways."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.errors import BadTensor
from weft.checkpoints.schema import Schema, TensorSpec

TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "U16": torch.uint16,
        "I16": torch.int16,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "U32": torch.uint32,
        "I32": torch.int32,
        "F32": torch.float32,
        "U64": torch.uint64,
        "I64": torch.int64,
        "F64": torch.float64,
    }
)
DTYPE_NAMES: Final[Mapping[torch.dtype, str]] = MappingProxyType(
    {dtype: name for name, dtype in TORCH_DTYPES.items()}
)


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    """Name, dtype and shape of a tensor.

    Raises:
        BadTensor: its dtype has no name in safetensors.
        BadSchema: its name or shape is not allowed.
    """
    dtype = DTYPE_NAMES.get(tensor.dtype)
    if dtype is None:
        raise BadTensor(
            f"tensor {name}: dtype {tensor.dtype} cannot be written; "
            f"expected one of {', '.join(map(str, DTYPE_NAMES))}"
        )
    return TensorSpec(name, dtype, tuple(tensor.shape))


def schema_of(tensors: Mapping[str, Tensor]) -> Schema:
    """The schema of tensors in memory."""
    return Schema(tuple(spec_of(name, tensor) for name, tensor in tensors.items()))


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor as a file holds them: flat, row by row, little-endian.

    A view of the tensor's own memory where it is contiguous and on the CPU, a
    copy otherwise; the tensor is not modified.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
