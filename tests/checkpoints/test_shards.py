"""Tensors fill files in the order of their names; no file is too large, none is split."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.checkpoints.errors import TooLarge
from weft.checkpoints.header import MAX_HEADER_BYTES, build_header
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.shards import index_bytes, plan_shards
from weft.errors import InvalidInput

METADATA = {"format": "pt"}


def schema_of(sizes: list[int]) -> Schema:
    return Schema(tuple(TensorSpec(f"t{n:04}", "U8", (size,)) for n, size in enumerate(sizes)))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_every_tensor_once_in_order_and_no_shard_too_large(sizes: list[int], limit: int) -> None:
    schema = schema_of(sizes)
    shards = plan_shards(schema, limit, METADATA)
    assert tuple(spec for shard in shards for spec in shard.schema) == schema.tensors
    for shard in shards:
        assert shard.schema.size_bytes <= limit or len(shard.schema) == 1
        header = build_header(shard.schema, METADATA)
        assert shard.size_bytes == len(header) + shard.schema.size_bytes
    for shard, after in pairwise(shards):
        assert shard.schema.size_bytes + after.schema.tensors[0].size_bytes > limit


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (30, ["model.safetensors"]),
        (29, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
    ],
)
def test_names(limit: int, names: list[str]) -> None:
    shards = plan_shards(schema_of([10, 10, 10]), limit, METADATA)
    assert [shard.name for shard in shards] == names


def test_index() -> None:
    index = json.loads(index_bytes(plan_shards(schema_of([10, 10, 10]), 20, {})))
    assert index == {
        "metadata": {"total_size": 30},
        "weight_map": {
            "t0000": "model-00001-of-00002.safetensors",
            "t0001": "model-00001-of-00002.safetensors",
            "t0002": "model-00002-of-00002.safetensors",
        },
    }


def test_a_header_that_would_be_too_long_ends_a_shard() -> None:
    specs = (TensorSpec(f"{n:05}{'ä' * 480}", "F32", (1, 2, 3)) for n in range(6000))
    schema = Schema(tuple(specs))
    shards = plan_shards(schema, 10**9, {"note": "x" * 2**20})
    assert len(shards) > 1
    assert tuple(spec for shard in shards for spec in shard.schema) == schema.tensors
    for shard in shards:
        assert len(build_header(shard.schema, {"note": "x" * 2**20})) <= MAX_HEADER_BYTES


@pytest.mark.parametrize("limit", [0, -1])
def test_shards_of_no_size(limit: int) -> None:
    with pytest.raises(InvalidInput, match="positive number"):
        plan_shards(schema_of([1]), limit, METADATA)


def test_more_files_than_a_reader_opens() -> None:
    with pytest.raises(TooLarge, match=r"513 files; at most 512.*allow 2 bytes or more"):
        plan_shards(schema_of([1] * 513), 1, METADATA)
    assert len(plan_shards(schema_of([1] * 513), 2, METADATA)) == 257


def test_an_index_that_no_reader_opens() -> None:
    specs = tuple(TensorSpec(f"{n:06}{'x' * 1000}", "U8", (1,)) for n in range(35_000))
    with pytest.raises(TooLarge, match="index"):
        plan_shards(Schema(specs), 4000, METADATA)
