"""`weft merge`, end to end: every method, every form of input, every mistake, every signal."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.crafted import bits, file
from tests.checkpoints.folders import save_adapter, save_distributed
from tests.checkpoints.outputs import tree
from tests.checkpoints.test_merger import MERGES, TRANSFORMS
from weft.checkpoints.reader import open_checkpoint
from weft.cli.__main__ import main
from weft.merging import registry

PATIENCE_S = 60.0
MODELS = ("a", "b", "c")
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
KEYS = [
    *("output", "digest", "tensors", "parameters", "seconds", "cpu_seconds"),
    *("peak_rss_bytes", "bytes_read", "bytes_written"),
    *("experts", "adapter_rank", "truncation_error"),
]


def model(
    seed: int, dtype: torch.dtype, near: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (10, 6),
        "model.embed_tokens.weight": (10, 6),
        "model.norm.weight": (6,),
        "model.scale": (),
    }
    for layer in range(3):
        shapes[f"model.layers.{layer}.mlp.weight"] = (6, 8)
        shapes[f"model.layers.{layer}.norm.weight"] = (6,)
    found = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        found[name] = (values if near is None else near[name].float() + values / 8).to(dtype)
    return {**found, "position_ids": torch.arange(4)}


def write_models(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    base = model(0, dtype)
    for name, tensors in (
        ("base", base),
        *((name, model(seed, dtype, base)) for seed, name in enumerate(MODELS, 1)),
    ):
        (folder / name).mkdir(exist_ok=True)
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
    (folder / "base" / "config.json").write_text('{"torch_dtype": "float32"}')
    (folder / "base" / "tokenizer.json").write_text("{}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["merge", *(str(argument) for argument in arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def read(path: str) -> dict[str, Tensor]:
    with open_checkpoint(path) as reader:
        return {name: reader.read(name) for name in reader.schema.names}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(bits(one[name]) == bits(two[name]) for name in one)


def given(method: str) -> tuple[str, ...]:
    return MODELS[: registry.create(method).most]


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_method_over_every_dtype(
    method: str, dtype: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_models(folder, DTYPES[dtype])
    found = document(capsys, "-m", method, "--base", "base", *given(method), "-o", "out")
    assert list(found) == KEYS
    merged, base = read("out"), read("base")
    assert {name: (t.dtype, t.shape) for name, t in merged.items()} == {
        name: (t.dtype, t.shape) for name, t in base.items()
    }
    assert all(bool(tensor.double().isfinite().all()) for tensor in merged.values())
    assert bits(merged["position_ids"]) == bits(base["position_ids"])
    assert not same(merged, base)
    again = document(
        capsys, "-m", method, "--base", "base", *given(method), "-o", "again", "--threads", "1"
    )
    assert again["digest"] == found["digest"]
    assert sorted(os.listdir()) == ["a", "again", "b", "base", "c", "out"]


@pytest.mark.parametrize("sums", ["exact", "float64", "float32"])
def test_the_mean_is_the_mean(sums: str, capsys: pytest.CaptureFixture[str]) -> None:
    document(capsys, "-m", "mean", *MODELS, "-o", "out", "--weights", "1,2,5", "--sums", sums)
    found, models = read("out"), [read(name) for name in MODELS]
    for name, tensor in found.items():
        if tensor.is_floating_point():
            one, two, three = (each[name].double() for each in models)
            expected = (one + 2 * two + 5 * three) / 8
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("place", ["--before", "--after"])
@pytest.mark.parametrize("step", TRANSFORMS)
def test_every_transform_before_and_after(
    step: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("-m", "task_arithmetic", "--base", "base", *MODELS)
    plain = document(capsys, *common, "-o", "plain")
    if step == "larv" and place == "--after":
        found = document(capsys, *common, place, step, "-o", "out")
    else:
        found = document(capsys, *common, place, step, "-o", "out", "--threads", "2")
    assert found["digest"] != plain["digest"]


def test_a_calibration_after(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("-m", "task_arithmetic", "--base", "base", *MODELS, "--after", "svc:alpha=0.5")
    plain = document(capsys, *common, "-o", "plain")
    other = document(capsys, *common, "-o", "out", "--weights", "1,1,3")
    assert plain["digest"] != other["digest"]


def test_options_of_steps_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("-m", "mean", "--base", "base", *MODELS)
    document(capsys, *common, "--before", "trim:density=1.0,extent=tensor", "-o", "whole")
    document(capsys, *common, "-o", "plain")
    assert same(read("whole"), read("plain"))
    document(capsys, *common, "--after", "norm_clip:longest=1e-6", "-o", "near")
    for name, tensor in read("near").items():
        torch.testing.assert_close(tensor, read("base")[name])


def test_what_lies_beside(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys,
        "-m",
        "mean",
        "--base",
        "base",
        *MODELS,
        "-o",
        "out",
        "--dtype",
        "bfloat16",
        "--shard-size",
        "300B",
    )
    assert code == 0, err
    assert "digest " in out
    assert "11 tensors" in out
    names = os.listdir("out")
    assert len([name for name in names if name.startswith("model-")]) > 1
    assert {"config.json", "tokenizer.json", "weft.json", "model.safetensors.index.json"} <= {
        *names
    }
    assert json.loads(Path("out/config.json").read_text()) == {"torch_dtype": "bfloat16"}
    assert {t.dtype for t in read("out").values()} == {torch.bfloat16, torch.int64}
    told = json.loads(Path("out/weft.json").read_text())
    assert str(Path.cwd()) not in json.dumps(told)


def test_forms_of_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = document(capsys, "-m", "mean", "--base", "base", *MODELS, "-o", "plain")
    save_distributed(folder / "dcp", {"model": load_file("b/model.safetensors"), "step": 3})
    assert main(["diff", "base", "c", "-o", "delta"]) == 0
    capsys.readouterr()
    found = document(
        capsys, "-m", "mean", "--base", "base", "a/model.safetensors", "dcp", "delta",
        "-o", "out", "--prefix", "model.",
    )  # fmt: skip
    assert found["digest"] == plain["digest"]
    factors = {
        "model.layers.1.mlp.lora_A.weight": torch.ones(2, 8),
        "model.layers.1.mlp.lora_B.weight": torch.ones(6, 2) / 16,
    }
    for name in ("x", "y"):
        save_adapter(folder / name, factors, target_modules=["mlp"])
    document(
        capsys, "-m", "task_arithmetic", "--set", "scale=1", "--base", "base", "x", "y", "-o", "sum"
    )
    changed = read("sum")["model.layers.1.mlp.weight"] - read("base")["model.layers.1.mlp.weight"]
    torch.testing.assert_close(changed, torch.full((6, 8), 2 * 2 * 2 / 16))


def test_mixed_dtypes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in read("b").items()}
    save_file(half, folder / "b" / "model.safetensors")
    code, _, err = run(capsys, "-m", "mean", "--base", "base", *MODELS, "-o", "out")
    assert code == 2
    assert "--mixed-dtypes" in err
    document(capsys, "-m", "mean", "--base", "base", *MODELS, "-o", "out", "--mixed-dtypes")
    assert read("out")["model.norm.weight"].dtype is torch.float32


OURS = """
method = "ties"
base = "base"
[options]
density = 0.4
extent = "tensor"
[[models]]
path = "a"
weight = [0, 0.5, 1]
[[models]]
path = "b"
before = [{ method = "trim", options = { density = 0.5 } }]
[[models]]
path = "c"
weight = 2
[[after]]
method = "norm_clip"
options = { longest = 2.0 }
"""
MERGEKIT = """
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: [0, 0.5, 1], density: 0.4}
  - model: b
    parameters: {weight: 0.5, density: 0.4}
dtype: float32
"""
STACKED = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 3]}]
dtype: float32
"""
GRADIENT = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [0, 1]}}
      - {model: b, layer_range: [0, 2], parameters: {weight: [1, 0]}}
  - sources:
      - {model: a, layer_range: [0, 3], parameters: {weight: 1}}
      - {model: b, layer_range: [0, 3], parameters: {weight: 0}}
dtype: float32
"""


@pytest.mark.parametrize(("name", "text"), [("r.toml", OURS), ("r.yaml", MERGEKIT)])
def test_recipes(name: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).write_text(text)
    one = document(capsys, "--config", name, "-o", "out")
    two = document(capsys, "--config", name, "-o", "other", "--threads", "1")
    assert one["digest"] == two["digest"]
    assert list(one) == KEYS
    code, _, err = run(capsys, "--config", name, "a", "-m", "mean", "-o", "n")
    assert (code, err) == (2, "weft: --config says it all; leave out MODEL, --method\n")


def test_a_stack_is_a_copy_to_the_bit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = read("b")
    tiny["model.layers.1.mlp.weight"][0] = torch.tensor([1e-30, -0.0, 1e30, 5e-324, 0, 1, 2, 3])
    save_file(tiny, folder / "b" / "model.safetensors")
    (folder / "r.yaml").write_text(STACKED)
    document(capsys, "--config", "r.yaml", "-o", "out")
    found, a, b = read("out"), read("a"), read("b")
    for layer, (source, at) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2)]):
        for part in ("mlp", "norm"):
            mine = found[f"model.layers.{layer}.{part}.weight"]
            # A copy by way of sums: zero has one sign.
            assert bits(mine) == bits(source[f"model.layers.{at}.{part}.weight"] + 0.0)
    assert bits(found["model.embed_tokens.weight"]) == bits(a["model.embed_tokens.weight"])
    assert bits(found["lm_head.weight"]) == bits(b["lm_head.weight"])


def test_gradients_over_a_stack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Depth is that of the stack, which is higher than any model."""
    (folder / "r.yaml").write_text(GRADIENT)
    document(capsys, "--config", "r.yaml", "-o", "out")
    found, a, b = read("out"), read("a"), read("b")
    sources = [(b, 0), (a, 1), (a, 0), (a, 1), (a, 2)]
    for layer, (source, at) in enumerate(sources):
        torch.testing.assert_close(
            found[f"model.layers.{layer}.mlp.weight"], source[f"model.layers.{at}.mlp.weight"]
        )


def test_gradients_over_a_distributed_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names are those without the prefix, here too."""
    for name in ("a", "b"):
        save_distributed(folder / f"{name}-dcp", {"state": load_file(f"{name}/model.safetensors")})
    text = 'method = "mean"\n' + "".join(
        f'[[models]]\npath = "{name}"\nweight = {weight}\n'
        for name, weight in (("a-dcp", [0, 0.5, 1]), ("b-dcp", [1, 0.5, 0]))
    )
    (folder / "r.toml").write_text(text)
    document(capsys, "--config", "r.toml", "-o", "out", "--prefix", "state.")
    found = read("out")
    for layer, name in ((0, "b"), (2, "a")):
        torch.testing.assert_close(
            found[f"model.layers.{layer}.mlp.weight"],
            read(name)[f"model.layers.{layer}.mlp.weight"],
        )


def test_resume_of_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("-m", "mean", *MODELS, "-o", "out", "--resume")
    first = document(capsys, *common)
    again = document(capsys, *common)
    assert (again["digest"], again["bytes_read"]) == (first["digest"], 0)
    code, _, err = run(capsys, *common, "--weights", "1,2,3")
    assert code == 2
    assert "was made by another plan" in err


def nan_in_b() -> None:
    tensors = read("b")
    tensors["model.layers.1.mlp.weight"][2, 3] = torch.nan
    save_file(tensors, "b/model.safetensors")


def other_architecture() -> None:
    save_file({f"t{place}": torch.ones(2) for place in range(10_000)}, "b/model.safetensors")


def broken() -> None:
    Path("b/model.safetensors").write_bytes(b"\0" * 100)


def pickled() -> None:
    Path("b/model.safetensors").rename("b/pytorch_model.bin")


def nothing() -> None:
    pass


def wide() -> None:
    """A base, and a model of it, with a matrix of a mebibyte."""
    for seed, name in enumerate(("base", "wide")):
        Path(name).mkdir(exist_ok=True)
        matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(seed))
        save_file({"l.weight": matrix}, Path(name) / "model.safetensors")


def adapters() -> None:
    """One that cannot be, for each way."""
    factors = {
        "model.layers.0.mlp.lora_A.weight": torch.ones(2, 8),
        "model.layers.0.mlp.lora_B.weight": torch.ones(6, 2),
    }
    ways: dict[str, Any] = {
        "zero": {"r": 0},
        "four": {"r": "four"},
        "null": {"lora_alpha": None},
        "nan": {"lora_alpha": float("nan")},
        "other": {"r": 3},
        "dora": {"use_dora": True},
    }
    for name, config in ways.items():
        save_adapter(Path(name), factors, **config)


def complex_numbers() -> None:
    header = {"w": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}
    Path("c64.safetensors").write_bytes(file(header, b"\0" * 8))


def loop() -> None:
    for folder in (Path("a"), Path()):
        (folder / "loop").symlink_to("loop")


LONG = "x" * 300
LOOP = "a/loop: cannot be read: Too many levels of symbolic links"
NAN = "b, tensor 'model.layers.1.mlp.weight': nan found at element 19"
ROWS: dict[str, tuple[str, str, Callable[[], None], int]] = {
    "no method": ("a b -o out", "no method: name one with --method", nothing, 2),
    "no models": ("-m mean -o out", "nothing to merge: name the models", nothing, 2),
    "no output": ("-m mean a b", "Missing option '--out'", nothing, 2),
    "weights": ("-m mean a b c -o out --weights 1,2", "2 weights for 3 models", nothing, 2),
    "weights of words": ("-m mean a b -o out --weights 1,x", "expected numbers", nothing, 2),
    "endless weights": ("-m mean a b -o out --weights 1,inf", "expected finite", nothing, 2),
    "weights of zero": (
        "-m mean a b -o out --weights 0,0", "no contribution has a weight other than", nothing, 2,
    ),
    "weights of nothing": (
        "-m mean a b -o out --weights 1,-1", "a mean needs more than zero", nothing, 2,
    ),
    "method": ("-m tiez a b -o out", "did you mean 'ties'?", nothing, 2),
    "option": (
        "-m ties --set densiti=0.2 --base base a b -o out", "did you mean 'density'?", nothing, 2,
    ),
    "option beyond": (
        "-m ties --set density=1.5 --base base a b -o out", "density", nothing, 2,
    ),
    "option of words": ("-m ties --set density=much --base base a -o out", "density", nothing, 2),
    "option without value": ("-m ties --set density a -o out", "expected key=value", nothing, 2),
    "option twice": (
        "-m ties --set density=1 --set density=1 a -o out", "density is given twice", nothing, 2,
    ),
    "no base": ("-m ties a b -o out", "needs a base", nothing, 2),
    "a transform merges": ("-m dare --base base a b -o out", "merges none", nothing, 2),
    "a calibration merges": ("-m svc --base base a b -o out", "merges none", nothing, 2),
    "a method transforms": ("-m mean a --before ties -o out", "ties is no transform", nothing, 2),
    "a method after": ("-m mean a --after mean -o out", "mean merges; after a merge", nothing, 2),
    "a calibration before": (
        "-m mean --base base a --before svc -o out", "svc is no transform", nothing, 2,
    ),
    "step": ("-m mean a b --before trimm -o out", "did you mean 'trim'?", nothing, 2),
    "step's option": (
        "-m mean a b --before trim:dens=1 -o out", "did you mean 'density'?", nothing, 2,
    ),
    "three for two": ("-m slerp a b c -o out", "slerp takes at most 2 contributions", nothing, 2),
    "equal paths": ("-m mean a ./a -o out", "a and a are one model, named twice", nothing, 2),
    "missing model": ("-m mean a nowhere -o out", "nowhere: no such file or folder", nothing, 2),
    "a loop of links": ("-m mean a a/loop -o out", LOOP, loop, 2),
    "a loop of links, base": ("-m mean a --base a/loop -o out", LOOP, loop, 2),
    "a loop of links, alone": ("-m mean a/loop/x b -o out", "a/loop/x: cannot be", loop, 2),
    "a loop of links, out": ("-m mean a b -o loop", "is a symbolic link", loop, 2),
    "a long name": (f"-m mean a {LONG} -o out", f"{LONG}: cannot be read: File name", nothing, 2),
    "a long name, base": (f"-m mean a --base {LONG} -o out", "File name too long", nothing, 2),
    "a file as a folder": (
        "-m mean a b/model.safetensors/c -o out", "c: no such file or folder", nothing, 2,
    ),
    "missing base": ("-m mean --base nowhere a -o out", "nowhere: no such", nothing, 2),
    "output exists": ("-m mean a b -o c", "c: exists; choose another", nothing, 2),
    "output is the base": ("-m mean --base base a -o base", "base: exists", nothing, 2),
    "output is a model": ("-m mean a b -o a", "a: exists", nothing, 2),
    "output in the base": ("-m mean --base base a -o base/x", "lies within base", nothing, 2),
    "output in a model": ("-m mean a b -o b/x", "lies within b", nothing, 2),
    "no folder for it": ("-m mean a b -o no/where", "no is no folder; make it first", nothing, 2),
    "no number": ("-m mean a b -o out", NAN, nan_in_b, 2),
    "no number, spectral": ("-m iso_c --base base a b -o out", NAN, nan_in_b, 2),
    "another model": ("-m mean a b -o out", "and 10001 more", other_architecture, 2),
    "pickle": ("-m mean a b -o out", "weft never opens pickles", pickled, 2),
    "broken file": ("-m mean a b -o out", "b/model.safetensors", broken, 1),
    "a few bytes": ("-m mean a base/tokenizer.json -o out", "2 bytes are too few", nothing, 2),
    "no safetensors": (
        "-m mean a base/config.json -o out", "config.json: not a safetensors file:", nothing, 2,
    ),
    "complex numbers": (
        "-m mean a c64.safetensors -o out", "tensor 'w': dtype 'C64' is not one of",
        complex_numbers, 2,
    ),
    **{
        f"adapter {name}": (f"-m mean --base base {name} -o out", said, adapters, 2)
        for name, said in {
            "zero": "adapter_config.json: r is 0, a rank from 1 expected",
            "four": "adapter_config.json: r is 'four', a rank from 1 expected",
            "null": "adapter_config.json: lora_alpha is None, a finite number expected",
            "nan": "adapter_config.json: holds NaN, expected finite numbers",
            "other": "rank 3 expected by adapter_config.json",
            "dora": "only plain LoRA is read",
        }.items()
    },
    "memory": (
        "-m iso_c --base base wide -o out --memory 1MiB",
        "--memory: found '1MiB', expected at least 23 MiB: tensor", wide, 2,
    ),
    "memory of an adapter": (
        "-m mean --base base wide -o out --memory 1MiB --adapter-out 2",
        "--memory: found '1MiB', expected at least", wide, 2,
    ),
    "no memory": (
        "-m mean a b -o out --memory 0", "--memory: found '0', expected at least 1.0 MiB",
        nothing, 2,
    ),
    "less than no memory": (
        "-m mean a b -o out --memory -1", "--memory: found '-1', expected at least 1", nothing, 2,
    ),
    "little memory": (
        "-m mean a b -o out --memory 1KiB", "--memory: found '1KiB', expected at", nothing, 2,
    ),
    "memory of words": ("-m mean a b -o out --memory lots", "--memory: found 'lots'", nothing, 2),
    "shards of nothing": (
        "-m mean a b -o out --shard-size 0", "--shard-size: found '0', expected", nothing, 2,
    ),
    "threads": ("-m mean a b -o out --threads -1", "--threads", nothing, 2),
    "dtype": ("-m mean a b -o out --dtype int8", "--dtype: found 'int8'", nothing, 2),
    "sums": ("-m mean a b -o out --sums fast", "--sums: found 'fast'", nothing, 2),
    "device": ("-m mean a b -o out --device tpu", "--device: found 'tpu'", nothing, 2),
    "recipe": ("--config nowhere.yaml -o out", "nowhere.yaml", nothing, 2),
}  # fmt: skip


LISTS = {"another model"}


@pytest.mark.parametrize("row", ROWS)
def test_mistakes(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, fault, prepare, expected = ROWS[row]
    prepare()
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (expected, ""), err
    assert fault in err
    assert err.startswith("weft: ")
    assert err.count("\n") == 1 or row in LISTS
    assert len(err) < 2500
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}.keys() == before.keys()


def test_a_prefix_of_nothing_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "-m", "mean", "a", "b", "-o", "out", "--prefix", "state.")
    assert (code, err) == (
        0,
        "--prefix 'state.' makes no difference: no model is a torch.distributed checkpoint\n",
    )
    assert "11 tensors, 289 parameters, " in out


def test_short_names_of_dtypes(capsys: pytest.CaptureFixture[str]) -> None:
    document(capsys, "-m", "mean", "a", "b", "-o", "out", "--dtype", "bf16")
    assert read("out")["model.scale"].dtype == torch.bfloat16


@pytest.mark.parametrize("resume", [False, True])
def test_what_an_interrupt_leaves_is_told(
    resume: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weft.checkpoints.job.merge", interrupted)
    code, _, err = run(capsys, "-m", "mean", "a", "b", "-o", "out", *["--resume"] * resume)
    kept = "out.partial is kept: go on with --resume, or remove it\n" if resume else ""
    assert (code, err) == (130, f"{kept}weft: interrupted\n")
    assert Path("out.partial").exists() == resume


def test_models_are_named_by_their_paths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the last parts of the paths are alike."""
    for run_of in ("r1", "r2"):
        shutil.copytree(folder / "a", folder / run_of / "ckpt")
    arguments = ("-m", "mean", "r1/ckpt", "r2/ckpt", "-o", "out")
    bad = read("r2/ckpt")
    bad["model.norm.weight"][0] = torch.nan
    save_file(bad, folder / "r2" / "ckpt" / "model.safetensors")
    assert run(capsys, *arguments)[2].startswith("weft: r2/ckpt, tensor 'model.norm.weight': nan")
    for dtype in (torch.float16, torch.bfloat16):
        halves = {name: t.to(dtype) if t.ndim > 1 else t for name, t in read("a").items()}
        save_file(halves, folder / "r2" / "ckpt" / "model.safetensors")
        lines = run(capsys, *arguments)[2].splitlines()
        assert lines[0] == (
            "weft: r2/ckpt: 5 of its tensors are not those of r1/ckpt (--mixed-dtypes merges them"
            " all the same):"
        )
        assert len(lines) == 6
        assert lines[1].startswith("  lm_head.weight is ")


def test_a_full_disk_is_seen_before_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.checkpoints.output.free_bytes", lambda _: 5000)
    code, out, err = run(capsys, "-m", "mean", "a", "b", "-o", "out")
    assert (code, out) == (1, "")
    assert "bytes are needed and 5000 are free" in err
    assert sorted(os.listdir()) == ["a", "b", "base", "c"]


MEAN_OF_A = 'method = "mean"\n[[models]]\npath = "a"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (MEAN_OF_A + 'weight = "much"', "models[0].weight"),
        (
            f"options = {{ density = [0.1, 0.5] }}\n{MEAN_OF_A.replace('mean', 'ties')}",
            "density cannot vary from tensor to tensor where magnitudes are ranked over the whole",
        ),
        (
            MEAN_OF_A + '[[before]]\nmethod = "trim"\noptions = { density = [0.1, 0.5] }',
            "set extent to tensor",
        ),
        (
            MEAN_OF_A + '[[after]]\nmethod = "norm_clip"\noptions = { longest = [1, 2] }',
            "longest cannot vary by tensor after a merge",
        ),
        (
            MEAN_OF_A + 'weight = [{ filter = "mpl", value = 0.5 }, { value = 1 }]',
            "r.toml: weight of a: the filter 'mpl' is part of no tensor's name; did you mean 'mlp'",
        ),
    ],
)
def test_mistakes_in_recipes(
    text: str, fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "r.toml").write_text(text)
    code, out, err = run(capsys, "--config", "r.toml", "-o", "out")
    assert (code, out) == (2, "")
    assert fault in err
    assert err.count("\n") == 1
    assert not Path("out.partial").exists()


def write_large(folder: Path, tensors: int = 24, elements: int = 2**20) -> None:
    """Two models of so many tensors of float32, holes in the files where zeros are read."""
    width = 4 * elements
    header = json.dumps(
        {
            f"t{place:02}": {
                "dtype": "F32",
                "shape": [elements],
                "data_offsets": [place * width, (place + 1) * width],
            }
            for place in range(tensors)
        }
    ).encode()
    for name, value in (("p", 1), ("q", 3)):
        with (folder / f"{name}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write(torch.full((elements,), float(value)).numpy().tobytes())
            file.truncate(8 + len(header) + tensors * width)


LARGE = ("-m", "mean", "p.safetensors", "q.safetensors", "-o", "out", "--threads", "2")


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "weft.cli", "merge", *LARGE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_files(process: "subprocess.Popen[str]", count: int) -> None:
    """Until the work folder holds so many files."""
    until = time.monotonic() + PATIENCE_S
    while not Path("out.partial").is_dir() or len(os.listdir("out.partial")) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_merge_that_is_ended_leaves_nothing(number: signal.Signals, folder: Path) -> None:
    write_large(folder)
    before = sorted(os.listdir())
    process = start("--shard-size", "8MiB")
    try:
        wait_for_files(process, 4)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "weft: interrupted\n")
    assert sorted(os.listdir()) == before


def test_a_merge_that_is_killed_is_gone_on_with(folder: Path) -> None:
    write_large(folder)
    process = start("--shard-size", "8MiB")
    try:
        wait_for_files(process, 6)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert Path("out.partial").is_dir()
    assert not Path("out").exists()
    refused = start("--shard-size", "8MiB")
    _, err = refused.communicate(timeout=PATIENCE_S)
    assert refused.returncode == 2
    assert "an earlier merge did not finish; go on with it (--resume)" in err
    resumed = start("--shard-size", "8MiB", "--resume", "--json")
    out, err = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, err
    found = json.loads(out)
    assert not Path("out.partial").exists()
    whole = start("--shard-size", "8MiB", "--json", "-o", "whole")
    out, err = whole.communicate(timeout=PATIENCE_S)
    assert whole.returncode == 0, err
    straight = json.loads(out)
    assert found["digest"] == straight["digest"]
    assert found["bytes_read"] < straight["bytes_read"] == 2 * 24 * 4 * 2**20
    assert tree(Path("out")) == tree(Path("whole"))
    first = load_file("whole/model-00001-of-00012.safetensors")
    assert torch.equal(first["t00"], torch.full((2**20,), 2.0))
    assert not first["t01"].any()
