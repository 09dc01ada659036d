"""Recipes in our own form, and the files that recipes are."""

import subprocess
import sys
from pathlib import Path

import pytest

from weft.cli.recipe import (
    BadRecipe,
    ModelEntry,
    Recipe,
    Slice,
    Source,
    Step,
    names_of,
    read_recipe,
)
from weft.cli.recipe_files import MAX_ALIASES, MAX_BYTES
from weft.cli.schedule import Piece, Rule, Schedule
from weft.errors import InvalidInput

TIES = """
method = "ties"
base = "models/base"
dtype = "bfloat16"

[options]
scale = 0.8
density = [1, 0.2]
extent = "tensor"

[[models]]
path = "models/a"
weight = 0.5

[[models]]
path = "/abs/b/"
name = "bee"
weight = [{ filter = "mlp", value = [0, 1] }, { value = 0.25 }]
adapter = "adapters/b"
before = [{ method = "negate" }]

[[before]]
method = "dare"
options = { density = 0.5 }

[[after]]
method = "lines"
"""

STACK = """
method: passthrough
models: [{path: a}, {path: b}]
slices:
  - layers: {a: [0, 24]}
  - layers: {b: [20, 40]}
"""


def recipe(tmp_path: Path, text: str, name: str = "recipe.toml") -> Recipe:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_recipe(tmp_path / name)


def refusal(tmp_path: Path, text: str, name: str = "recipe.yaml") -> str:
    with pytest.raises(BadRecipe) as got:
        recipe(tmp_path, text, name)
    message = str(got.value)
    assert isinstance(got.value, InvalidInput)
    assert message.startswith(str(tmp_path / name))
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 400
    return message.removeprefix(f"{tmp_path / name}").removeprefix(": ")


def test_every_key_of_our_form(tmp_path: Path) -> None:
    assert recipe(tmp_path, TIES) == Recipe(
        method="ties",
        options={"scale": 0.8, "extent": "tensor"},
        scheduled={"density": Schedule((Piece((Rule((1.0, 0.2)),)),))},
        base=f"{tmp_path}/models/base",
        models=(
            ModelEntry(path=f"{tmp_path}/models/a", name="a", weight=Schedule.constant(0.5)),
            ModelEntry(
                path="/abs/b/",
                name="bee",
                weight=Schedule((Piece((Rule((0.0, 1.0), "mlp"), Rule((0.25,)))),)),
                adapter=f"{tmp_path}/adapters/b",
                before=(Step(name="negate"),),
            ),
        ),
        before=(Step(name="dare", options={"density": 0.5}),),
        after=(Step(name="lines"),),
        dtype="BF16",
        sidecars=f"{tmp_path}/models/base",
    )


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    in_yaml = """
      method: mean
      models: [{path: a, weight: [0, 1]}, {path: b}]
    """
    in_toml = 'method = "mean"\nmodels = [{path = "a", weight = [0, 1]}, {path = "b"}]'
    found = recipe(tmp_path, in_yaml, "recipe.yml")
    assert found == recipe(tmp_path, in_toml)
    assert found.models[1].weight == Schedule.constant(1.0)
    assert (found.base, found.sidecars) == (None, f"{tmp_path}/a")
    assert found.layers is None


def test_models_of_the_same_name_get_numbers(tmp_path: Path) -> None:
    found = recipe(tmp_path, "method: mean\nmodels: [{path: x/m}, {path: y/m}, {path: z}]", "r.yml")
    assert [entry.name for entry in found.models] == ["m-1", "m-2", "z"]


@pytest.mark.parametrize(
    "paths",
    [["x/m", "y/m", "m-1"], ["m-2", "x/m", "y/m"], ["m", "m/", "m-1-", "m-1", "m-2"], ["/"]],
)
def test_names_are_distinct(paths: list[str]) -> None:
    names = names_of(paths)
    assert len(set(names)) == len(paths)
    assert all(names)


def test_slices_of_a_merge(tmp_path: Path) -> None:
    text = """
method: ties
base: /m/base
models: [{path: /m/a}, {path: /m/b}]
slices:
  - layers: {b: [1, 3], base: [0, 2], a: [0, 2]}
  - layers: {base: [2, 3], a: [2, 3], b: [0, 1]}
"""
    assert recipe(tmp_path, text, "r.yaml").slices == (
        Slice(sources=(Source("/m/a", 0, 2), Source("/m/b", 1, 3)), base=Source("/m/base", 0, 2)),
        Slice(sources=(Source("/m/a", 2, 3), Source("/m/b", 0, 1)), base=Source("/m/base", 2, 3)),
    )
    assert recipe(tmp_path, text, "r.yaml").layers == 3


def test_a_stack_of_slices_is_one_model(tmp_path: Path) -> None:
    found = recipe(tmp_path, STACK, "r.yaml")
    assert found.slices == (
        Slice(sources=(Source(f"{tmp_path}/a", 0, 24),)),
        Slice(sources=(Source(f"{tmp_path}/b", 20, 40),)),
    )
    one = ModelEntry(path=f"{tmp_path}/a", name="stack", weight=Schedule.constant(1.0))
    assert (found.method, found.models, found.layers) == ("passthrough", (one,), 44)


def test_an_alias_and_a_merge_key_are_read(tmp_path: Path) -> None:
    text = """
method: mean
models:
  - &first {path: a, weight: 0.5}
  - {<<: *first, path: b}
"""
    found = recipe(tmp_path, text, "r.yaml")
    assert [entry.weight for entry in found.models] == [Schedule.constant(0.5)] * 2


ONE = "models: [{path: a}]\n"
BAD = {
    "no method": (ONE, "no 'method' (nor mergekit's 'merge_method'); see weft methods"),
    "method": ("method: 3\n" + ONE, "method: found 3, expected a method's name"),
    "unknown key": ("metod: mean", "recipe: unknown key 'metod'; did you mean 'method'?"),
    "no models": ("method: mean", "models: found none, expected one or more"),
    "models": ("method: mean\nmodels: a", "models: found 'a', expected a list"),
    "model": ("method: mean\nmodels: [a]", "models[0]: found 'a', expected keys with values"),
    "no path": ("method: mean\nmodels: [{weight: 1}]", "models[0].path: found None, expected a p"),
    "model key": (
        "method: mean\nmodels: [{path: a, wieght: 1}]",
        "models[0]: unknown key 'wieght'; did you mean 'weight'?",
    ),
    "same name": (
        "method: mean\nmodels: [{path: a, name: x}, {path: b, name: x}]",
        "models[1].name: 'x' is taken; names must be distinct",
    ),
    "called base": (
        "method: mean\nmodels: [{path: a, name: base}]",
        "models[0].name: 'base' is taken",
    ),
    "weight": (
        "method: mean\nmodels: [{path: a, weight: much}]",
        "models[0].weight: found 'much', expected a number",
    ),
    "filters": (
        "method: mean\nmodels: [{path: a, weight: [{filter: mlp, value: 1}]}]",
        "models[0].weight: no value for tensors that no filter fits",
    ),
    "dtype": (
        "method: mean\ndtype: int8\n" + ONE,
        "dtype: found 'int8', expected float32, float16, bfloat16 or float64",
    ),
    "dtype of another kind": ("method: mean\ndtype: [1]\n" + ONE, "dtype: found [1], expected"),
    "option": (
        "method: mean\noptions: {bound: null}\n" + ONE,
        "options.bound: found None, expected a number, flag or text",
    ),
    "step": ("method: mean\nbefore: [dare]\n" + ONE, "before[0]: found 'dare', expected keys"),
    "step without method": (
        "method: mean\nafter: [{options: {}}]\n" + ONE,
        "after[0].method: found None, expected a method's name",
    ),
    "slice lacks a model": (
        "method: mean\nmodels: [{path: a}, {path: b}]\nslices: [{layers: {a: [0, 1]}}]",
        "slices[0].layers: no range for 'b'; each model needs one",
    ),
    "slice of a stranger": (
        "method: mean\nmodels: [{path: a}]\nslices: [{layers: {c: [0, 1]}}]",
        "slices[0].layers: unknown key 'c'; expected a",
    ),
    "slices of two sizes": (
        "method: mean\nmodels: [{path: a}, {path: b}]\nslices: [{layers: {a: [0, 1], b: [0, 2]}}]",
        "slices[0].layers: 1 layers of 'a' and 2 of 'b', expected as many of each",
    ),
    "range": (
        "method: mean\nmodels: [{path: a}]\nslices: [{layers: {a: [2, 2]}}]",
        "slices[0].layers.a: found [2, 2], expected [first, stop]",
    ),
    "range of floats": (
        "method: mean\nmodels: [{path: a}]\nslices: [{layers: {a: [0, 2.5]}}]",
        "slices[0].layers.a: found [0, 2.5], expected [first, stop]",
    ),
    "two copied": (
        "method: passthrough\nmodels: [{path: a}, {path: b}]",
        "models: found 2, expected one: passthrough copies",
    ),
    "two copied in a slice": (
        (
            "method: passthrough\nmodels: [{path: a}, {path: b}]\n"
            "slices: [{layers: {a: [0, 1], b: [0, 1]}}]"
        ),
        "slices[0].layers: names 2 models, expected one: passthrough copies",
    ),
    "a stranger copied": (
        "method: passthrough\nmodels: [{path: a}]\nslices: [{layers: {c: [0, 1]}}]",
        "slices[0].layers: no model is called 'c'; expected a",
    ),
    "a copy that changes": (
        "method: passthrough\nmodels: [{path: a, weight: 2}]",
        "models[0].weight: not with passthrough, which copies",
    ),
    "a list": ("[1, 2]", "found [1, 2], expected a recipe: keys with values"),
    "a number as key": ("1: 2", "found {1: 2}, expected a recipe"),
    "empty": ("", "found None, expected a recipe: keys with values"),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_recipes_that_cannot_be_followed(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


BAD_FILES = {
    "key twice": ("method: mean\nmethod: ties\n", ", line 2, column 1: not YAML: key 'method' occ"),
    "deep key twice": ("a: {b: 1, c: 2, b: 3}", ", line 1, column 17: not YAML: key 'b' occurs tw"),
    "tab": ("a:\n\t- b", ", line 2, column 1: not YAML: found character '\\t'"),
    "open bracket": ("a: [1,", ", line 1, column 7: not YAML: expected the node content"),
    "python object": (
        "a: !!python/object/apply:os.system ['echo']",
        ", line 1, column 4: not YAML: could not determine a constructor",
    ),
    "two documents": ("a: 1\n---\nb: 2", ", line 2, column 1: not YAML: but found another docu"),
    "too deep": ("[" * 5000, "not YAML: nested too deeply"),
    "control character": ("a: \x00", "not YAML: unacceptable character"),
    "unknown alias": ("a: *b", ", line 1, column 4: not YAML: found undefined alias"),
    "bad date": ("a: 2020-13-45", "not YAML: month must be in 1..12"),
    "list as key": ("? [a]\n: b", ", line 1, column 3: not YAML: found unhashable key"),
}


@pytest.mark.parametrize(("text", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_are_no_yaml(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    levels.insert(0, "a0: &a0 [0, 1]")
    assert f"more than {MAX_ALIASES} aliases" in refusal(tmp_path, "\n".join(levels))
    few = "\n".join(levels[:7])
    assert refusal(tmp_path, few).startswith("recipe: unknown key 'a0'")
    shown = f"{few}\nmethod: mean\nmodels: *a6\n".replace("a0: &a0", "dtype: &a0")
    assert len(refusal(tmp_path, shown)) < 300


def test_a_bomb_in_a_value_is_shown_in_brief(tmp_path: Path) -> None:
    text = "method: mean\nmodels:\n- {path: &a [1, 1]}\n"
    for level in range(6):
        text += f"- {{path: &{'bcdefg'[level]} [{', '.join(['*' + 'abcdefg'[level]] * 9)}]}}\n"
    assert refusal(tmp_path, text).startswith("models[0].path: found [1, 1], expected a path")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"none\.toml: no such recipe$"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(BadRecipe, match=r"cannot be read: Is a directory$"):
        read_recipe(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"method: \xff")
    with pytest.raises(BadRecipe, match=r"r\.yaml: byte 8 is not UTF-8"):
        read_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(BadRecipe, match=rf"more than {MAX_BYTES} bytes; a recipe is a short text"):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", ["a = 1\na = 2", "a = ", "a = 2020-99-99", "a = " + "[" * 5000])
def test_files_that_are_no_toml(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text, "r.toml").startswith("not TOML: ")


def test_reading_a_recipe_loads_no_torch(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TIES, encoding="utf-8")
    code = (
        "import sys, pathlib, weft.cli.recipe as r; r.read_recipe(pathlib.Path(sys.argv[1]));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.toml")], check=False)
    assert done.returncode == 0
