"""Headers: what we build the reference parser reads, and the other way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.checkpoints.errors import MalformedFile
from weft.checkpoints.header import (
    build_header,
    header_length,
    layout,
    layout_offsets,
    parse_header,
)
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec

SPECS = st.builds(
    TensorSpec,
    st.text("abc._é", min_size=1, max_size=12).filter(lambda name: name != ".."),
    st.sampled_from(sorted(DTYPE_BYTES)),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
)
SCHEMAS = st.lists(SPECS, max_size=8, unique_by=lambda spec: spec.name).map(
    lambda specs: Schema(tuple(specs))
)
TEXTS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).filter(
    lambda found: "".join([*found, *found.values()]).isprintable()
)


@given(SCHEMAS, TEXTS, st.sampled_from([0, 4096]))
def test_what_is_built_is_parsed(schema: Schema, metadata: dict[str, str], reserved: int) -> None:
    data = build_header(schema, metadata, reserved=reserved)
    assert len(data) % 8 == 0
    assert len(data) >= reserved
    size = len(data) + schema.size_bytes
    assert header_length(data[:32], size, "x") == len(data) - 8
    header = parse_header(data[8:], size, "x")
    assert header.schema == schema
    assert header.metadata == metadata
    assert header.offsets == {
        name: len(data) + offset for name, offset in layout_offsets(schema).items()
    }


@given(SCHEMAS)
def test_every_tensor_is_aligned_to_its_dtype(schema: Schema) -> None:
    offsets = layout_offsets(schema)
    assert all(offsets[spec.name] % DTYPE_BYTES[spec.dtype] == 0 for spec in schema)
    assert sorted(layout(schema), key=lambda spec: spec.name) == list(schema)


def test_layout_by_hand() -> None:
    schema = Schema(
        (
            TensorSpec("a", "U8", (3,)),
            TensorSpec("b", "F32", (2,)),
            TensorSpec("c", "F64", ()),
            TensorSpec("d", "I32", (1,)),
        )
    )
    assert layout_offsets(schema) == {"c": 0, "b": 8, "d": 16, "a": 20}


def test_length_that_looks_like_a_pickle_is_read() -> None:
    """A header of 0x0280 bytes begins with the two bytes of a pickle."""
    first = (0x0280).to_bytes(8, "little") + b'{"a"'
    assert first[:2] == b"\x80\x02"
    assert header_length(first, 0x0280 + 8, "x") == 0x0280


def test_size_of_the_file_is_checked_to_the_byte() -> None:
    schema = Schema((TensorSpec("a", "F32", (2,)),))
    data = build_header(schema, {})
    for size in (len(data) + 7, len(data) + 9, len(data)):
        with pytest.raises(MalformedFile, match="cut short or has bytes"):
            parse_header(data[8:], size, "x")
