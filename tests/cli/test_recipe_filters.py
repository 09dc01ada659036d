"""Filters that fit no tensor: refused in our own recipes, told in mergekit's."""

from pathlib import Path

import pytest

from weft.cli.recipe import read_recipe
from weft.cli.recipe_filters import check_filters
from weft.cli.recipe_values import BadRecipe

NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
]
OURS = """
method: task_arithmetic
base: base
options: {{scale: [{{filter: {scale}, value: 0.5}}, {{value: 1}}]}}
models:
  - {{path: a, weight: [{{filter: {weight}, value: 0.5}}, {{value: 1}}]}}
  - {{path: b, before: [{{method: trim, options: {{density: [{{filter: {step}, value: 1}},
      {{value: 0.5}}]}}}}]}}
"""
MERGEKIT = """
merge_method: linear
models:
  - {model: a, parameters: {weight: [{filter: self_atn, value: 0}, {value: 1}]}}
  - {model: b, parameters: {weight: 1}}
"""


def check(folder: Path, **filters: str) -> None:
    fits = {"scale": "mlp", "weight": "self_attn", "step": "layers.0"}
    (folder / "r.yaml").write_text(OURS.format(**fits | filters))
    check_filters(read_recipe(folder / "r.yaml"), lambda: NAMES, Path("r.yaml"))


def test_what_fits_is_taken(tmp_path: Path) -> None:
    check(tmp_path)
    check(tmp_path, weight="'*'", scale="layers", step="q_proj.weight")


@pytest.mark.parametrize(
    ("key", "text", "where", "hint"),
    [
        ("weight", "self_atn", "weight of a", "did you mean 'self_attn'?"),
        ("scale", "mpl", "options.scale", "did you mean 'mlp'?"),
        ("step", "mlp.upproj", "before of b: trim.density", "did you mean 'mlp.up_proj'?"),
        ("weight", "'layers.*'", "weight of a", "did you mean 'layers.0'?"),
        ("weight", "xyz", "weight of a", "names are such as 'model.embed_tokens.weight'"),
    ],
)
def test_what_fits_nothing_is_refused_with_the_nearest(
    key: str, text: str, where: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe) as caught:
        check(tmp_path, **{key: text})
    shown = text.strip("'")
    assert str(caught.value) == (
        f"r.yaml: {where}: the filter {shown!r} is part of no tensor's name; {hint}"
    )


def test_of_mergekit_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(MERGEKIT)
    check_filters(read_recipe(tmp_path / "r.yaml"), lambda: NAMES, Path("r.yaml"))
    assert capsys.readouterr().err == (
        "r.yaml: weight of a: the filter 'self_atn' is part of no tensor's name, and makes no"
        " difference\n"
    )


def test_names_are_asked_for_only_where_there_are_filters(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("method: mean\nmodels: [{path: a, weight: [0, 1]}]\n")
    found = read_recipe(tmp_path / "r.yaml")
    check_filters(found, lambda: pytest.fail("was asked"), tmp_path / "r.yaml")
