"""Files and tensors for the tests of checkpoints, made by hand."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import TensorSpec


def entry(dtype: str, shape: list[object], begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(
    header: Mapping[str, object] | str | bytes, data: bytes = b"", length: int | None = None
) -> bytes:
    """A safetensors file with this header, whatever it says; `length` lies about its length."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    claimed = len(header) if length is None else length
    return claimed.to_bytes(8, "little") + header + data


def random_tensor(spec: TensorSpec, seed: int = 0) -> Tensor:
    """Random bits: NaN, infinities and subnormals among them; booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    high = 2 if spec.dtype == "BOOL" else 256
    data = torch.randint(0, high, (spec.size_bytes,), dtype=torch.uint8, generator=generator)
    return data.view(TORCH_DTYPES[spec.dtype]).reshape(spec.shape)


def bits(tensor: Tensor) -> bytes:
    """The bytes of a tensor; equal bytes, equal tensors, NaN or not."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def contents(reader: TensorReader) -> dict[str, bytes]:
    """Every tensor of a reader, read whole and read by blocks; both must agree."""
    found = {}
    for spec in reader.schema:
        whole = reader.read(spec.name)
        assert tuple(whole.shape) == spec.shape
        assert whole.dtype == TORCH_DTYPES[spec.dtype]
        blocks = b"".join(bits(block) for block in reader.blocks(spec.name))
        assert blocks == bits(whole)
        found[spec.name] = blocks
    return found


def model(seed: int = 0) -> dict[str, Tensor]:
    """A small model with every dtype and kind, an empty tensor and a scalar."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "fc.weight": normal(5, 3),
        "fc.bias": normal(5).to(torch.float64),
        "embed.weight": normal(33, 7).to(torch.bfloat16),
        "head.weight": normal(4, 2).to(torch.float16),
        "scale": normal(1).reshape(()),
        "quantised": normal(6).to(torch.float8_e4m3fn),
        "narrow": normal(6).to(torch.float8_e5m2),
        "norm.running_mean": normal(5),
        "norm.running_var": normal(5).abs(),
        "norm.num_batches_tracked": torch.tensor(7 + seed),
        "mask": torch.tensor([True, False, bool(seed % 2)]),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "ids": torch.tensor([seed, 2, 3]).to(torch.uint16),
        "empty": torch.zeros(0, 4),
    }
