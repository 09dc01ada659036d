"""Which tensors go into which file of a model folder, and the index that says so. Pure.

Tensors fill one file after the other, sorted by name; no tensor is split. One file is
`model.safetensors`; several are `model-00001-of-0000N.safetensors` with the index that
the Hugging Face libraries read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weft.checkpoints.errors import TooLarge
from weft.checkpoints.header import MAX_HEADER_BYTES, build_header
from weft.checkpoints.reader import INDEX_NAME, MAX_INDEX_BYTES, MAX_SHARDS
from weft.checkpoints.schema import Schema, TensorSpec
from weft.errors import InvalidInput

__all__ = ["INDEX_NAME", "MODEL_NAME", "Shard", "index_bytes", "plan_shards"]

MODEL_NAME: Final = "model.safetensors"
OFFSET_DIGITS: Final = 20
"""As many as the largest offset of a file may have."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a model: its name, what it holds, and the size that it will have.

    Attributes:
        name: of the file, without a folder.
        schema: its tensors.
        size_bytes: of the file, header and tensors.
    """

    name: str
    schema: Schema
    size_bytes: int


def plan_shards(schema: Schema, shard_bytes: int, metadata: Mapping[str, str]) -> tuple[Shard, ...]:
    """Divide the tensors of a model among files.

    Args:
        schema: the tensors; without any there is one file that holds none.
        shard_bytes: the most bytes of tensors in one file; a tensor that is larger
            has a file for itself. A header that would be too long ends a file as well.
        metadata: noted in the header of each file.

    Raises:
        InvalidInput: `shard_bytes` is not positive.
        TooLarge: more files than a reader opens, or a larger index.
    """
    if shard_bytes < 1:
        raise InvalidInput(f"shards of {shard_bytes} bytes: a positive number is expected")
    groups = list(_groups(schema, shard_bytes, MAX_HEADER_BYTES - len(_header((), metadata))))
    if len(groups) > MAX_SHARDS:
        raise TooLarge(
            f"shards of {shard_bytes} bytes make {len(groups)} files; at most {MAX_SHARDS} are "
            f"read back: allow {-(-schema.size_bytes // MAX_SHARDS)} bytes or more a shard"
        )
    names = _names(len(groups))
    shards = tuple(_shard(name, group, metadata) for name, group in zip(names, groups, strict=True))
    if len(index_bytes(shards)) > MAX_INDEX_BYTES:
        raise TooLarge(f"the index of {len(schema)} tensors is beyond {MAX_INDEX_BYTES} bytes")
    return shards


def index_bytes(shards: Sequence[Shard]) -> bytes:
    """The index of a sharded model, as the Hugging Face libraries write it."""
    homes = {tensor: shard.name for shard in shards for tensor in shard.schema.names}
    document = {
        "metadata": {"total_size": sum(shard.schema.size_bytes for shard in shards)},
        "weight_map": dict(sorted(homes.items())),
    }
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def _shard(name: str, group: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Shard:
    schema = Schema(tuple(group))
    return Shard(name, schema, len(_header(group, metadata)) + schema.size_bytes)


def _header(group: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    return build_header(Schema(tuple(group)), metadata)


def _names(count: int) -> list[str]:
    if count == 1:
        return [MODEL_NAME]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _groups(schema: Schema, shard_bytes: int, header_bytes: int) -> Iterator[list[TensorSpec]]:
    group: list[TensorSpec] = []
    size = header = 0
    for spec in schema:
        line = _line_bytes(spec)
        if group and (size + spec.size_bytes > shard_bytes or header + line > header_bytes):
            yield group
            group, size, header = [], 0, 0
        group.append(spec)
        size, header = size + spec.size_bytes, header + line
    yield group


def _line_bytes(spec: TensorSpec) -> int:
    """At least as many bytes as the tensor's line in a header has."""
    fields = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": ["9" * OFFSET_DIGITS] * 2}
    return len(json.dumps({spec.name: fields}, ensure_ascii=False).encode())
