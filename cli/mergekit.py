"""mergekit's YAML as a recipe: the file's shape; its methods are in `mergekit_methods`.

    merge_method: ties
    base_model: models/base
    models:
      - model: models/a
        parameters: {weight: 0.5, density: 0.5}
      - model: models/b+adapters/b
        parameters: {weight: [0, 0.3, 1], density: 0.3}
    parameters: {normalize: true, int8_mask: true}
    dtype: bfloat16

Read: `models` or `slices`, `base_model`, `parameters` at every level with gradients and
filters, `dtype`, `out_dtype`, `tokenizer_source` of one model. What weft cannot do as
mergekit does it is refused by key; what makes no difference, and where a result differs,
is said in the recipe's notes. Models are folders: nothing is downloaded.

The facts are those of mergekit's code of June 2026; its numbers differ in that it computes
in `dtype`, and weft in float32 or float64.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from weft.cli.mergekit_methods import translated
from weft.cli.mergekit_parameters import Inputs, Level, Parameters, Reference
from weft.cli.mergekit_task import Task
from weft.cli.recipe import PASSTHROUGH, Recipe, dtype_of
from weft.cli.recipe_values import BadRecipe, keys, layer_range, rows, show, table, text

_KEYS: Final = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype"),
    *("out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
)
_HARMLESS: Final = {
    "name": "it is for people",
    "random_seed": "weft draws from what the models hold, so equal inputs draw alike",
    "allow_crimes": "models that do not fit are refused all the same",
    "trust_remote_code": "no code is run",
    "lazy_unpickle": "no pickles are opened",
    "low_cpu_memory": "memory is bounded anyway",
    "write_model_card": "none is written",
}
"""Keys that some write and nothing here reads."""
_REFUSED: Final = {
    "modules": "models of several modules are not read; give models or slices",
    "chat_template": "no template is written; remove the key and mend tokenizer_config.json",
}


def recipe_of_mergekit(document: Mapping[str, object]) -> Recipe:
    """The recipe that a document in mergekit's form is.

    Raises:
        BadRecipe: names the key, and the model where there is one.
    """
    passed = [key for key in document if key in _HARMLESS]
    read = {key: value for key, value in document.items() if key not in _HARMLESS}
    found = keys(read, "recipe", _KEYS)
    for key, why in _REFUSED.items():
        if found.get(key) is not None:
            raise BadRecipe(f"{key}: {why}")
    method = text(found["merge_method"], "merge_method", "a method's name")
    base = found.get("base_model")
    task = Task(
        method=method,
        base=None if base is None else reference(base, "base_model"),
        parameters=Parameters(method, _inputs(found, method)),
    )
    if task.base is not None and task.base.adapter is not None:
        raise BadRecipe(f"base_model: {task.base} has an adapter; merge it into a folder first")
    recipe = translated(task)
    dtype, dtype_notes = _dtype(found)
    sidecars, tokenizer_notes = _tokenizer(found, task)
    return replace(
        recipe,
        dtype=dtype,
        sidecars=sidecars or recipe.sidecars,
        notes=(
            *(f"{key} makes no difference: {_HARMLESS[key]}" for key in passed),
            *recipe.notes,
            *dtype_notes,
            *tokenizer_notes,
        ),
        mergekit=True,
    )


def reference(value: object, where: str) -> Reference:
    """A model: a folder's path, with `+` and an adapter's path where there is one."""
    named = text(value, where, "a path")
    if "@" in named:
        raise BadRecipe(f"{where}: {show(named)} names a revision; download it and name the folder")
    path, plus, adapter = named.partition("+")
    if not path or (plus and not adapter) or "+" in adapter:
        raise BadRecipe(f"{where}: found {show(named)}, expected path or path+adapter")
    return Reference(path, adapter or None)


def _inputs(found: Mapping[str, object], method: str) -> tuple[Inputs, ...]:
    models, slices = rows(found.get("models"), "models"), rows(found.get("slices"), "slices")
    if bool(models) == bool(slices):
        there = "both" if models else "neither"
        raise BadRecipe(f"models, slices: found {there}, expected one of them")
    top = Level("parameters", table(found.get("parameters"), "parameters"))
    if models:
        return (Inputs(_models(models), (top,), {}),)
    base = found.get("base_model")
    cut = tuple(_slice(row, f"slices[{place}]", top, base) for place, row in enumerate(slices))
    if method != PASSTHROUGH:
        _same_models(cut)
    return cut


def _models(found: object) -> dict[Reference, Level]:
    own: dict[Reference, Level] = {}
    for place, row in enumerate(rows(found, "models")):
        where = f"models[{place}]"
        entry = keys(row, where, ("model", "parameters"))
        _add(own, entry, where)
    return own


def _add(own: dict[Reference, Level], entry: Mapping[str, object], where: str) -> Reference:
    model = reference(entry.get("model"), f"{where}.model")
    if model in own:
        raise BadRecipe(f"{where}.model: {model} is there twice; give it once")
    level = f"{where}.parameters"
    own[model] = Level(level, table(entry.get("parameters"), level))
    return model


def _slice(row: object, where: str, top: Level, base: object) -> Inputs:
    found = keys(row, where, ("sources", "base_model", "parameters", "residual_weight"))
    if found.get("residual_weight") is not None:
        raise BadRecipe(f"{where}.residual_weight: not read; remove it")
    if found.get("base_model") not in (None, base):
        raise BadRecipe(f"{where}.base_model: another base than the recipe's is not read")
    own: dict[Reference, Level] = {}
    ranges: dict[Reference, tuple[int, int]] = {}
    for place, source in enumerate(rows(found.get("sources"), f"{where}.sources")):
        spot = f"{where}.sources[{place}]"
        entry = keys(source, spot, ("model", "layer_range", "parameters"))
        model = _add(own, entry, spot)
        if model.adapter is not None:
            raise BadRecipe(f"{spot}.model: {model} has an adapter; merge it into a folder first")
        ranges[model] = layer_range(entry.get("layer_range"), f"{spot}.layer_range")
    lengths = {stop - first for first, stop in ranges.values()}
    if len(lengths) != 1:
        counts = ", ".join(f"{stop - first} of {m}" for m, (first, stop) in ranges.items())
        raise BadRecipe(f"{where}.sources: {counts or 'none'}, expected as many layers of each")
    own_level = f"{where}.parameters"
    level = Level(own_level, table(found.get("parameters"), own_level))
    return Inputs(own, (level, top), ranges)


def _same_models(cut: tuple[Inputs, ...]) -> None:
    for place, each in enumerate(cut):
        differing = set(each.own) ^ set(cut[0].own)
        if differing:
            names = ", ".join(sorted(map(str, differing)))
            raise BadRecipe(
                f"slices[{place}].sources: {names} not in every slice; all but passthrough need "
                "the same models in each"
            )


def _dtype(found: Mapping[str, object]) -> tuple[str | None, tuple[str, ...]]:
    """The output's: `out_dtype`, else `dtype`."""
    dtype, out = (
        dtype_of(found.get("dtype"), "dtype"),
        dtype_of(found.get("out_dtype"), "out_dtype"),
    )
    if dtype and out and dtype != out:
        return out, ("dtype makes no difference: weft computes in float32 or float64",)
    return out or dtype, ()


def _tokenizer(found: Mapping[str, object], task: Task) -> tuple[str | None, tuple[str, ...]]:
    """Whose files go with the result, where the recipe says it."""
    source, where = found.get("tokenizer_source"), "tokenizer_source"
    if found.get("tokenizer") is not None:
        if source is not None:
            raise BadRecipe("tokenizer, tokenizer_source: found both, expected one of them")
        inner = keys(found["tokenizer"], "tokenizer", ("source", "tokens", "pad_to_multiple_of"))
        for key in ("tokens", "pad_to_multiple_of"):
            if inner.get(key) is not None:
                raise BadRecipe(f"tokenizer.{key}: tokenizers are not changed; remove it")
        source, where = inner.get("source", "union"), "tokenizer.source"
    if source is None:
        return None, ()
    if source == "union":
        raise BadRecipe(f"{where}: 'union' builds a new vocabulary, which weft does not")
    if source == "base" and task.base is None:
        raise BadRecipe(f"{where}: 'base', and there is no base_model")
    path = task.base.path if source == "base" and task.base else reference(source, where).path
    note = (
        f"{where}: tokenizer files come from {path}; rows of embeddings are merged by their "
        "place, so all models must have that tokenizer"
    )
    return path, (note,)
