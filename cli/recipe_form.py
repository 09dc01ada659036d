"""Our own form of a recipe, as TOML or YAML.

    method = "ties"                    # see `weft methods`; or "passthrough", which copies
    base = "models/base"               # where the method needs one
    dtype = "bfloat16"                 # of the output; without it as in the models
    sidecars = "models/base"           # whose config and tokenizer; else the base's, or the first

    [options]                          # of the method
    scale = 0.8

    [[models]]
    path = "models/a"                  # relative to this file
    name = "a"                         # else the path's last part
    weight = 0.5                       # else 1
    adapter = "adapters/a"             # added to the model first

    [[models]]
    path = "models/b"
    weight = [0, 0.5, 1]               # from the first layer to the last

    [[before]]                         # changes each task vector; one model's own under it
    method = "dare"
    options = { density = 0.5 }

    [[after]]                          # changes the merged one
    method = "lines"

    [[slices]]                         # some layers, one slice on the other
    layers = { base = [0, 16], a = [0, 16], b = [0, 16] }

A number may be a list over the layers, or a list of `{ filter = "mlp", value = 0.3 }`
whose last has no filter (`weft.cli.schedule`). With `passthrough` a slice names one model.
"""

import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from weft.cli.recipe import PASSTHROUGH, ModelEntry, Recipe, Slice, Source, Step, dtype_of, names_of
from weft.cli.recipe_values import BadRecipe, keys, layer_range, nearest, rows, show, table, text
from weft.cli.schedule import Schedule, read_schedule

BASE: Final = "base"
"""What slices call the base."""

_KEYS: Final = (
    *("method", "options", "base", "dtype", "sidecars", "models", "before", "after", "slices"),
)
_MODEL_KEYS: Final = ("path", "name", "weight", "adapter", "before")


def recipe_of_form(document: Mapping[str, object], folder: Path) -> Recipe:
    """The recipe that a document in our own form is.

    Args:
        document: the file's keys and values.
        folder: what relative paths count from.

    Raises:
        BadRecipe: names the key, and what was expected.
    """
    found = keys(document, "recipe", _KEYS)
    if "method" not in found:
        raise BadRecipe("no 'method' (nor mergekit's 'merge_method'); see weft methods")
    method = text(found["method"], "method", "a method's name")
    base = _path(found["base"], "base", folder) if "base" in found else None
    models = _models(found.get("models"), folder)
    options, scheduled = _options(found.get("options"), "options")
    sidecars = found.get("sidecars")
    slices = _slices(found.get("slices"), models, base, method)
    if method == PASSTHROUGH:
        _only_copies(found, models)
        models = _copied(models, slices)
    return Recipe(
        method=method,
        options=options,
        scheduled=scheduled,
        base=base,
        models=models,
        before=_steps(found.get("before"), "before"),
        after=_steps(found.get("after"), "after"),
        dtype=dtype_of(found.get("dtype"), "dtype"),
        slices=slices,
        sidecars=(base or models[0].path)
        if sidecars is None
        else _path(sidecars, "sidecars", folder),
    )


def _path(value: object, where: str, folder: Path) -> str:
    return os.path.join(folder, os.path.expanduser(text(value, where, "a path")))


def _models(value: object, folder: Path) -> tuple[ModelEntry, ...]:
    found = [
        keys(row, f"models[{place}]", _MODEL_KEYS)
        for place, row in enumerate(rows(value, "models"))
    ]
    if not found:
        raise BadRecipe("models: found none, expected one or more")
    paths = [
        _path(row.get("path"), f"models[{place}].path", folder) for place, row in enumerate(found)
    ]
    names = names_of(paths)
    entries = tuple(
        _model(row, place, paths[place], names[place], folder) for place, row in enumerate(found)
    )
    called = [entry.name for entry in entries]
    for place, name in enumerate(called):
        if name in (BASE, *called[:place]):
            raise BadRecipe(f"models[{place}].name: {name!r} is taken; names must be distinct")
    return entries


def _model(row: Mapping[str, object], place: int, path: str, name: str, folder: Path) -> ModelEntry:
    where = f"models[{place}]"
    adapter = row.get("adapter")
    return ModelEntry(
        path=path,
        name=text(row.get("name", name), f"{where}.name"),
        weight=read_schedule(row.get("weight", 1.0), f"{where}.weight"),
        adapter=None if adapter is None else _path(adapter, f"{where}.adapter", folder),
        before=_steps(row.get("before"), f"{where}.before"),
    )


def _steps(value: object, where: str) -> tuple[Step, ...]:
    return tuple(_step(row, f"{where}[{place}]") for place, row in enumerate(rows(value, where)))


def _step(row: object, where: str) -> Step:
    found = keys(row, where, ("method", "options"))
    options, scheduled = _options(found.get("options"), f"{where}.options")
    name = text(found.get("method"), f"{where}.method", "a method's name")
    return Step(name=name, options=options, scheduled=scheduled)


def _options(value: object, where: str) -> tuple[dict[str, object], dict[str, Schedule]]:
    """Plain values, and those that vary from tensor to tensor."""
    options: dict[str, object] = {}
    scheduled: dict[str, Schedule] = {}
    for name, said in table(value, where).items():
        if isinstance(said, list | dict):
            scheduled[name] = read_schedule(said, f"{where}.{name}")
        elif isinstance(said, bool | int | float | str):
            options[name] = said
        else:
            raise BadRecipe(f"{where}.{name}: found {show(said)}, expected a number, flag or text")
    return options, scheduled


def _slices(
    value: object, models: Sequence[ModelEntry], base: str | None, method: str
) -> tuple[Slice, ...]:
    read = _copied_slice if method == PASSTHROUGH else _slice
    return tuple(
        read(keys(row, f"slices[{place}]", ("layers",)).get("layers"), place, models, base)
        for place, row in enumerate(rows(value, "slices"))
    )


def _slice(value: object, place: int, models: Sequence[ModelEntry], base: str | None) -> Slice:
    where = f"slices[{place}].layers"
    paths = {entry.name: entry.path for entry in models} | ({BASE: base} if base else {})
    found = keys(value, where, tuple(paths))
    missing = next((name for name in paths if name not in found), None)
    if missing is not None:
        raise BadRecipe(f"{where}: no range for {missing!r}; each model needs one")
    sources = {
        name: Source(path, *layer_range(found[name], f"{where}.{name}"))
        for name, path in paths.items()
    }
    _same_layers(sources, where)
    return Slice(sources=tuple(sources[entry.name] for entry in models), base=sources.get(BASE))


def _same_layers(sources: Mapping[str, Source], where: str) -> None:
    first, *others = sources
    for name in others:
        if sources[name].layers != sources[first].layers:
            raise BadRecipe(
                f"{where}: {sources[first].layers} layers of {first!r} and "
                f"{sources[name].layers} of {name!r}, expected as many of each"
            )


def _copied_slice(
    value: object, place: int, models: Sequence[ModelEntry], base: str | None
) -> Slice:
    where = f"slices[{place}].layers"
    found = table(value, where)
    paths = {entry.name: entry.path for entry in models}
    if len(found) != 1:
        raise BadRecipe(f"{where}: names {len(found)} models, expected one: passthrough copies")
    ((name, layers),) = found.items()
    if name not in paths:
        raise BadRecipe(f"{where}: no model is called {name!r}{nearest(name, tuple(paths))}")
    return Slice(sources=(Source(paths[name], *layer_range(layers, f"{where}.{name}")),))


def _only_copies(found: Mapping[str, object], models: Sequence[ModelEntry]) -> None:
    """Refuse what would have to change a tensor."""
    changing = [key for key in ("options", "before", "after") if found.get(key)]
    for place, entry in enumerate(models):
        changing += [f"models[{place}].before"] if entry.before else []
        changing += [] if entry.weight.anchors == (1.0,) else [f"models[{place}].weight"]
        changing += [f"models[{place}].adapter"] if entry.adapter and found.get("slices") else []
    if changing:
        raise BadRecipe(f"{changing[0]}: not with passthrough, which copies; use another method")


def _copied(models: tuple[ModelEntry, ...], slices: Sequence[Slice]) -> tuple[ModelEntry, ...]:
    """The one entry of a recipe that copies: the model, or the stack of slices."""
    if not slices and len(models) > 1:
        raise BadRecipe(f"models: found {len(models)}, expected one: passthrough copies")
    if not slices:
        return models
    path = slices[0].sources[0].path
    return (ModelEntry(path=path, name="stack", weight=Schedule.constant(1.0)),)
