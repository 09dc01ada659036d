"""What a model's own library needs travels with it, byte for byte, and nothing else does."""

import json
import os
from pathlib import Path

import pytest

from weft.checkpoints.errors import BadPath, MalformedFile, MissingCheckpoint
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.sidecars import Sidecar, find_sidecars, with_dtype

TAKEN = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
]
LEFT = [
    ".gitattributes",
    "README.md",
    "flax_model.msgpack",
    "model.safetensors",
    "model.safetensors.index.json",
    "modeling_tiny.py",
    "pytorch_model.bin",
    "tokenizer.pkl",
    "tokenizer.py",
    "tokenizer.safetensors",
    "training_args.bin",
    "weft.json",
]


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}" if name.endswith(".json") else "")
    return folder


def found(folder: Path) -> list[str]:
    return [sidecar.name for sidecar in find_sidecars(folder)]


def copied(folder: Path, sidecar: Sidecar) -> bytes:
    size = sidecar.copy_to(folder, sidecar.digest())
    data = (folder / sidecar.name).read_bytes()
    assert len(data) == size == sidecar.size_bytes
    return data


def test_what_is_taken_and_what_is_left(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", *TAKEN, *LEFT)
    (folder / "tokenizer").mkdir()
    assert found(folder) == TAKEN


def test_no_folder_has_no_companions(tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere") == []
    assert found(make(tmp_path, "config.json") / "config.json") == []
    assert found(make(tmp_path / "empty")) == []


def test_copies_are_byte_for_byte(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    data = os.urandom(3 * 2**20 + 17)
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "vocab.txt").write_bytes(b"")
    tokenizer, vocabulary = find_sidecars(folder)
    assert copied(tmp_path, tokenizer) == data
    assert copied(tmp_path, vocabulary) == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "tokenizer.model", "vocab.txt"]


def test_a_file_that_changes_or_goes_meanwhile(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "config.json")
    (sidecar,) = find_sidecars(folder)
    digest = sidecar.digest()
    (folder / "config.json").write_text("[]")
    with pytest.raises(MalformedFile, match="was changed while it was needed"):
        sidecar.copy_to(tmp_path, digest)
    (folder / "config.json").unlink()
    with pytest.raises(MissingCheckpoint, match=r"config\.json"):
        sidecar.copy_to(tmp_path, digest)
    assert os.listdir(tmp_path) == ["m"]


def test_code_that_the_configuration_names_and_what_it_imports(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e", "tok", "loose", "other", "far")
    folder = make(tmp_path / "m", "config.json", "tokenizer_config.json", "README.md")
    for name in names:
        (folder / f"{name}.py").write_text("import torch\n")
    (folder / "a.py").write_text("from .b import B\nfrom . import c\nimport loose\n")
    (folder / "b.py").write_text("def f():\n    from .d.deep import D\n    from .a import A\n")
    (folder / "d.py").write_text("this is no Python (\n")
    auto_map = {"AutoConfig": "a.Config", "AutoModel": "who/else--other.Model", "Odd": 3}
    (folder / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    tokenizers = {"AutoTokenizer": ["tok.Slow", None], "AutoX": "absent.X"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": tokenizers}))
    code = [name for name in found(folder) if name.endswith(".py")]
    assert code == ["a.py", "b.py", "c.py", "d.py", "tok.py"]


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"auto_map": 3}', '{"auto_map": ["a.A"]}'])
def test_a_configuration_that_makes_no_sense_is_copied_all_the_same(
    tmp_path: Path, text: str
) -> None:
    folder = make(tmp_path / "m", "a.py")
    (folder / "config.json").write_text(text)
    assert found(folder) == ["config.json"]


def test_modules_are_names_and_not_paths(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (tmp_path / "secret.py").touch()
    (folder / "config.json").write_text('{"auto_map": {"A": "../secret.A", "B": "/secret.B"}}')
    assert found(folder) == ["config.json"]


# Links


def test_links_within_the_folder_and_into_a_cache(tmp_path: Path) -> None:
    folder = make(tmp_path / "models--a--b" / "snapshots" / "0123")
    blobs = make(tmp_path / "models--a--b" / "blobs")
    (blobs / "abcd").write_text('{"from": "blobs"}')
    (folder / "config.json").symlink_to("../../blobs/abcd")
    (folder / "vocab.txt").write_text("x")
    (folder / "vocab.json").symlink_to("vocab.txt")
    config, inside, _ = find_sidecars(folder)
    (tmp_path / "out").mkdir()
    assert copied(tmp_path / "out", config) == b'{"from": "blobs"}'
    assert copied(tmp_path / "out", inside) == b"x"
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    (tmp_path / "named").symlink_to(folder)
    assert found(tmp_path / "named") == ["config.json", "vocab.json", "vocab.txt"]


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
@pytest.mark.parametrize("target", ["../secret", "../blobs/secret", "nothing", "../nothing"])
def test_links_to_elsewhere_or_nothing_are_refused(tmp_path: Path, name: str, target: str) -> None:
    folder = make(tmp_path / "m")
    make(tmp_path / "blobs", "secret")
    (tmp_path / "secret").write_text("private")
    (folder / name).symlink_to(target)
    fault = "leads to no regular file" if target == "nothing" else "outside of the model's folder"
    with pytest.raises(BadPath, match=fault):
        find_sidecars(folder)


def test_a_link_to_itself_and_a_pipe_are_refused(tmp_path: Path) -> None:
    loop, pipe = make(tmp_path / "loop"), make(tmp_path / "pipe")
    (loop / "vocab.txt").symlink_to("vocab.txt")
    os.mkfifo(pipe / "vocab.txt")
    for folder in (loop, pipe):
        with pytest.raises(BadPath, match="leads to no regular file"):
            find_sidecars(folder)


# The dtype in config.json


def schema(**elements: int) -> Schema:
    return Schema(tuple(TensorSpec(d, d, (count,)) for d, count in elements.items()))


def edited(
    tmp_path: Path, text: str, source: Schema | None = None, output: Schema | None = None
) -> str:
    folder = make(tmp_path / "m", "vocab.txt")
    (folder / "config.json").write_bytes(text.encode())
    before = find_sidecars(folder)
    config, vocabulary = with_dtype(before, source or schema(F32=9), output or schema(BF16=9))
    assert vocabulary == before[1]
    assert (config.edited is None) == (b"".join(config.parts()) == text.encode())
    return b"".join(config.parts()).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{ "torch_dtype" :\n "float32", "ä": 1e-5}', '{ "torch_dtype" :\n "bfloat16", "ä": 1e-5}'),
        ('{"dtype": "float16"}\r\n', '{"dtype": "bfloat16"}\r\n'),
        ('{"dtype": "torch.float32"}', '{"dtype": "torch.bfloat16"}'),
        ('{"a": {"b": [1]}, "dtype": "float32"}', '{"a": {"b": [1]}, "dtype": "bfloat16"}'),
        ('{"x\\"{": "}", "dtype": "float32"}', '{"x\\"{": "}", "dtype": "bfloat16"}'),
        (
            '{"dtype": "float32", "torch_dtype": "float32"}',
            '{"dtype": "bfloat16", "torch_dtype": "bfloat16"}',
        ),
    ],
)
def test_only_the_dtype_changes(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, before) == after


@pytest.mark.parametrize(
    "text",
    [
        '{"text_config": {"torch_dtype": "float32"}}',
        '{"list": [{"dtype": "float32"}]}',
        '{"torch_dtype": "auto"}',
        '{"torch_dtype": null}',
        '{"kind": "dtype", "x": "float32"}',
        '{"my_dtype": "float32"}',
        '{"dtype": "bfloat16"}',
        "no JSON",
        "",
    ],
)
def test_what_names_no_dtype_at_the_top_stays(tmp_path: Path, text: str) -> None:
    assert edited(tmp_path, text) == text


def test_a_configuration_that_is_no_text_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'\xff{"dtype": "float32"}')
    before = find_sidecars(tmp_path)
    assert with_dtype(before, schema(F32=1), schema(F16=1)) == before


@pytest.mark.parametrize(
    ("source", "output", "changes"),
    [
        (schema(F32=9), schema(F32=9), False),
        (schema(F32=9, F16=1), schema(F16=9, F32=1), True),
        (schema(F32=9, I64=99), schema(F32=9, F16=1), False),
        (schema(F8_E4M3=9, BF16=1), schema(F8_E4M3=9, BF16=1), False),
        (schema(F32=9), schema(I64=9), False),
        (schema(I64=9), schema(F16=9), True),
    ],
)
def test_the_dtype_is_that_of_most_elements(
    tmp_path: Path, source: Schema, output: Schema, changes: bool
) -> None:
    text = '{"dtype": "float64"}'
    after = edited(tmp_path, text, source, output)
    assert after == ('{"dtype": "float16"}' if changes else text)
