"""Filters of a recipe that speak of no tensor: a typo, and a weight that nobody gets.

A filter is a plain part of a tensor's name, as mergekit has it: no pattern.
"""

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from weft.cli.output import note
from weft.cli.recipe import Recipe, Step
from weft.cli.recipe_values import BadRecipe, show
from weft.cli.schedule import Schedule


def check_filters(recipe: Recipe, names: Callable[[], Sequence[str]], file: Path) -> None:
    """Refuse what fits no tensor; of mergekit's recipes, which may speak of many models, say it.

    Args:
        recipe: as it was read.
        names: gives the names of the merged model's tensors; asked for where there are filters.
        file: the recipe's, for messages.

    Raises:
        BadRecipe: names the filter, its key and the nearest part of a name.
    """
    found = list(_filters(recipe))
    known = names() if found else ()
    for where, text in found:
        if any(text in name for name in known):
            continue
        said = f"{file}: {where}: the filter {show(text)} is part of no tensor's name"
        if not recipe.mergekit:
            raise BadRecipe(f"{said}{_hint(text, known)}")
        note(f"{said}, and makes no difference")


def _filters(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Each filter with the key that it stands under."""
    for where, schedule in _schedules(recipe):
        texts = [rule.filter for piece in schedule.pieces for rule in piece.rules]
        yield from ((where, text) for text in dict.fromkeys(texts) if text is not None)


def _schedules(recipe: Recipe) -> Iterator[tuple[str, Schedule]]:
    for model in recipe.models:
        yield f"weight of {model.name}", model.weight
        yield from _of_steps(model.before, f"before of {model.name}")
    yield from ((f"options.{name}", each) for name, each in recipe.scheduled.items())
    yield from _of_steps(recipe.before, "before")
    yield from _of_steps(recipe.after, "after")


def _of_steps(steps: Sequence[Step], where: str) -> Iterator[tuple[str, Schedule]]:
    for step in steps:
        for name, schedule in step.scheduled.items():
            yield f"{where}: {step.name}.{name}", schedule


def _hint(text: str, names: Collection[str]) -> str:
    """The nearest run of as many parts of a name as the filter has."""
    length = text.strip(".").count(".") + 1
    runs = {
        ".".join(parts[place : place + length])
        for parts in (name.split(".") for name in names)
        for place in range(len(parts) - length + 1)
    }
    near = difflib.get_close_matches(text, sorted(runs), n=1)
    example = min(names, default="")
    return f"; did you mean {near[0]!r}?" if near else f"; names are such as {example[:80]!r}"
