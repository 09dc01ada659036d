"""A recipe from the options of `weft merge`."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from weft.cli.recipe import ModelEntry, Recipe, Step, names_of
from weft.cli.schedule import Schedule
from weft.errors import InvalidInput
from weft.merging.option_texts import parse_options
from weft.merging.registry import entry


def recipe_of(
    models: Sequence[Path],
    method: str | None,
    base: str | None,
    settings: Sequence[str],
    weights: str | None,
    before: Sequence[str] | None,
    after: Sequence[str] | None,
) -> Recipe:
    """The recipe that the options of a command line are.

    Args:
        models: paths of the contributions.
        method: its name.
        base: path of the common base.
        settings: `key=value`, hyperparameters of the method.
        weights: numbers and commas; None: one each.
        before: steps, `name` or `name:key=value,...`.
        after: likewise.

    Raises:
        InvalidInput: what is missing, twice there or no such thing; names the option.
    """
    if method is None:
        raise InvalidInput("no method: name one with --method; `weft methods` lists all")
    if not models:
        raise InvalidInput("nothing to merge: name the models, or a recipe with --config")
    paths = [str(path) for path in models]
    _require_distinct(models)
    pairs = zip(paths, names_of(paths), _weights(weights, len(paths)), strict=True)
    options = parse_options(entry(method).load(), pairs_of(settings, "--set"), called=method)
    return Recipe(
        method=method,
        options=options,
        base=base,
        models=tuple(
            ModelEntry(path=path, name=name, weight=Schedule.constant(weight))
            for path, name, weight in pairs
        ),
        sidecars=base or paths[0],
        before=tuple(_step(text, "--before") for text in before or []),
        after=tuple(_step(text, "--after") for text in after or []),
    )


def _step(text: str, option: str) -> Step:
    name, _, rest = text.partition(":")
    texts = pairs_of([part for part in rest.split(",") if part], f"{option} {name}")
    return Step(name=name, options=parse_options(entry(name).load(), texts, called=name))


def pairs_of(texts: Sequence[str], option: str) -> dict[str, str]:
    """`key=value` each, as a mapping.

    Raises:
        InvalidInput: not of that form, or a key twice; names the option.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidInput(f"{option}: found {text!r}, expected key=value")
        if key.strip() in found:
            raise InvalidInput(f"{option}: {key.strip()} is given twice")
        found[key.strip()] = value.strip()
    return found


def _weights(text: str | None, count: int) -> list[float]:
    if text is None:
        return [1.0] * count
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(
            f"--weights: found {text!r}, expected numbers and commas, such as 0.5,0.3,0.2"
        ) from None
    if len(weights) != count:
        raise InvalidInput(f"--weights: {len(weights)} weights for {count} models: {text}")
    if not all(math.isfinite(weight) for weight in weights):
        raise InvalidInput(f"--weights: found {text!r}, expected finite numbers")
    return weights


def _require_distinct(models: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in models:
        first = seen.setdefault(os.path.realpath(path), path)
        if first is not path:
            raise InvalidInput(
                f"{first} and {path} are one model, named twice; to let it count twice, give it"
                " twice the weight (--weights)"
            )
