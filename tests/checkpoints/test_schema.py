"""Names, shapes and kinds; and how two schemas are told apart."""

import pytest
from blake3 import blake3

from weft.checkpoints.errors import BadSchema, MissingTensor, SchemaMismatch
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec, check


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("fc.weight", "F32", "parameter"),
        ("fc.weight", "BF16", "parameter"),
        ("fc.weight", "F8_E4M3", "parameter"),
        ("bn.running_mean", "F32", "statistic"),
        ("running_var", "F16", "statistic"),
        ("bn.running_mean.weight", "F32", "parameter"),
        ("my_running_mean", "F32", "parameter"),
        ("bn.running_mean", "I64", "buffer"),
        ("bn.num_batches_tracked", "I64", "buffer"),
        ("mask", "BOOL", "buffer"),
        ("codes", "U8", "buffer"),
    ],
)
def test_kind_follows_from_dtype_and_name(name: str, dtype: str, kind: str) -> None:
    assert TensorSpec(name, dtype, (2,)).kind == kind


def test_sizes_by_hand() -> None:
    spec = TensorSpec("w", "BF16", (3, 4))
    assert (spec.elements, spec.size_bytes, spec.blocks) == (12, 24, 1)
    scalar = TensorSpec("s", "F64", ())
    assert (scalar.elements, scalar.size_bytes, scalar.blocks) == (1, 8, 1)
    empty = TensorSpec("e", "F32", (0, 9))
    assert (empty.elements, empty.size_bytes, empty.blocks) == (0, 0, 0)
    assert TensorSpec("b", "I8", (2**20 + 1,)).blocks == 2


@pytest.mark.parametrize(
    "name",
    ["", "a\x00b", "a\nb", "a\u202eb", "a\ud800", "/etc/passwd", "../x", "a/../b", "__metadata__"],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(BadSchema):
        TensorSpec(name, "F32", (1,))


def test_long_name_is_refused_and_not_repeated_in_full() -> None:
    with pytest.raises(BadSchema, match="limit of 1024 bytes") as caught:
        TensorSpec("x" * 10**6, "F32", (1,))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["a", "größe", "a/b", "layer.0.weight", "x" * 1024, "a b"])
def test_names_that_are_allowed(name: str) -> None:
    assert TensorSpec(name, "F32", (1,)).name == name


@pytest.mark.parametrize("shape", [(-1,), (2**61,), (0, 2**61), (1,) * 33, (2**31, 2**31)])
def test_shapes_that_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadSchema):
        TensorSpec("w", "U8", shape)


def test_unknown_dtype_names_those_known() -> None:
    with pytest.raises(BadSchema, match=r"'F4'.*BF16"):
        TensorSpec("w", "F4", (2,))


def test_schema_is_sorted_and_groups_by_kind() -> None:
    schema = Schema(
        (
            TensorSpec("b.running_var", "F32", (1,)),
            TensorSpec("a", "F32", (2,)),
            TensorSpec("c", "I64", ()),
        )
    )
    assert schema.names == ("a", "b.running_var", "c")
    assert [spec.name for spec in schema.parameters] == ["a"]
    assert [spec.name for spec in schema.statistics] == ["b.running_var"]
    assert [spec.name for spec in schema.buffers] == ["c"]
    assert (len(schema), schema.elements, schema.size_bytes) == (3, 4, 20)
    assert "a" in schema
    assert "z" not in schema


def test_missing_tensor_is_named() -> None:
    with pytest.raises(MissingTensor, match="'z'"):
        Schema(())["z"]


def test_name_twice_is_refused() -> None:
    with pytest.raises(BadSchema, match="twice"):
        Schema((TensorSpec("a", "F32", (1,)), TensorSpec("a", "F32", (1,))))


def test_digest_is_blake3_of_the_canonical_json() -> None:
    schema = Schema((TensorSpec("b", "I64", ()), TensorSpec("a", "F32", (2, 3))))
    assert schema.digest == blake3(b'[["a","F32",[2,3]],["b","I64",[]]]').hexdigest()


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BYTES) - {"F32"}))
def test_digest_tells_dtypes_apart(dtype: str) -> None:
    found = Schema((TensorSpec("a", dtype, (2,)),))
    assert found.digest != Schema((TensorSpec("a", "F32", (2,)),)).digest
    with pytest.raises(SchemaMismatch, match="F32"):
        check(found, Schema((TensorSpec("a", "F32", (2,)),)), "here")


def test_check_says_what_differs() -> None:
    expected = Schema((TensorSpec("a", "F32", (2, 3)), TensorSpec("b", "F32", (1,))))
    found = Schema((TensorSpec("a", "F32", (3, 2)), TensorSpec("c", "F32", (1,))))
    check(expected, expected, "x")
    with pytest.raises(SchemaMismatch) as caught:
        check(found, expected, "model.safetensors")
    assert str(caught.value) == (
        "model.safetensors: not the expected model: a is F32[3, 2], F32[2, 3] expected; "
        "b is missing (F32[1] expected); c (F32[1]) is not part of it"
    )


def test_check_lists_the_first_ten() -> None:
    expected = Schema(tuple(TensorSpec(f"t{i:02}", "F32", (1,)) for i in range(25)))
    with pytest.raises(SchemaMismatch) as caught:
        check(Schema(()), expected, "x")
    assert str(caught.value).count("is missing") == 10
    assert str(caught.value).endswith("and 15 more")
