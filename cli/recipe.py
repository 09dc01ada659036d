"""Recipes: what is to be merged, read from a file; nothing is opened or merged here.

A recipe is a TOML or a YAML file, in our own form (`weft.cli.recipe_form`), which has the
keys of `Recipe`, or in mergekit's (`weft.cli.mergekit`), known by its `merge_method`.

    recipe = read_recipe(Path("ties.yaml"))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from weft.cli.recipe_values import BadRecipe, show
from weft.cli.schedule import Schedule

__all__ = ["BadRecipe", "ModelEntry", "Recipe", "Slice", "Source", "Step", "read_recipe"]

PASSTHROUGH: Final = "passthrough"
"""The method that copies: one model, or one stack of slices; no arithmetic at all."""

DTYPES: Final[Mapping[str, str]] = {
    **{"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"},
    **{"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"},
    **{"fp32": "F32", "fp16": "F16", "bf16": "BF16", "fp64": "F64"},
}
"""What a recipe may say of the output's dtype, and its name in safetensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A transform or a calibration, before or after the merge.

    Attributes:
        options: by hyperparameter, the same for every tensor.
        scheduled: by hyperparameter, those that vary.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    scheduled: Mapping[str, Schedule] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One contribution.

    Attributes:
        path: of its checkpoint; not looked at yet.
        name: distinct within the recipe.
        adapter: path of an adapter that is added to the checkpoint; None: there is none.
        before: steps for this contribution alone, ahead of `Recipe.before`.
    """

    path: str
    weight: Schedule
    name: str
    adapter: str | None = None
    before: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Layers `first` to `stop`, the latter left out, of a checkpoint."""

    path: str
    first: int
    stop: int

    @property
    def layers(self) -> int:
        """How many."""
        return self.stop - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some layers of the merged model: where they come from.

    Attributes:
        sources: one for each of the recipe's models, in their order, of as many layers.
        base: likewise for the base; None where the recipe has none.
    """

    sources: tuple[Source, ...]
    base: Source | None = None

    @property
    def layers(self) -> int:
        """How many."""
        return self.sources[0].layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be merged, and how.

    Attributes:
        method: a name from the table of methods, or `passthrough`, which copies the one
            entry of `models`. Whether there is such a method is not looked up here.
        options: its hyperparameters that are the same for every tensor.
        scheduled: those that vary from tensor to tensor.
        base: path of the common base; None: none, models are merged as they are.
        models: the contributions, in the file's order.
        before: steps that change each contribution's task vector.
        after: steps that change the merged task vector.
        dtype: of the output's floating tensors, as safetensors names it; None: as in
            the models.
        slices: the merged model's layers, from the first; empty: models are whole. With
            slices a model (the base too) is the stack of its sources, and a model's
            `path` is that of its first source.
        sidecars: path whose configuration and tokenizer files go with the result.
        notes: what was accepted and makes no difference, or not quite the one that
            whoever wrote it may expect; one line each.
        mergekit: whether it was written for mergekit.
    """

    method: str
    models: tuple[ModelEntry, ...]
    sidecars: str
    options: Mapping[str, object] = field(default_factory=dict)
    scheduled: Mapping[str, Schedule] = field(default_factory=dict)
    base: str | None = None
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    dtype: str | None = None
    slices: tuple[Slice, ...] = ()
    notes: tuple[str, ...] = ()
    mergekit: bool = False

    @property
    def layers(self) -> int | None:
        """How many layers the slices have together; None where models are whole."""
        return sum(each.layers for each in self.slices) or None


def read_recipe(path: Path) -> Recipe:
    """Read a recipe, ours or mergekit's.

    Paths of models are kept as mergekit's form has them, so relative ones count from the
    current folder; in our own form they count from the recipe's folder.

    Raises:
        BadRecipe: no such file, not TOML or YAML, or not a recipe that can be followed;
            one line with file, key and what was expected.
    """
    from weft.cli.mergekit import recipe_of_mergekit
    from weft.cli.recipe_files import read_document
    from weft.cli.recipe_form import recipe_of_form

    document = read_document(path)
    try:
        if "merge_method" in document:
            return recipe_of_mergekit(document)
        return recipe_of_form(document, path.parent)
    except BadRecipe as error:
        raise BadRecipe(f"{path}: {error}") from None


def dtype_of(value: object, where: str) -> str | None:
    """The name that safetensors has for a dtype; None for None."""
    if value is None:
        return None
    found = DTYPES.get(value.removeprefix("torch.")) if isinstance(value, str) else None
    if found is None:
        raise BadRecipe(
            f"{where}: found {show(value)}, expected float32, float16, bfloat16 or float64"
        )
    return found


def names_of(paths: list[str]) -> list[str]:
    """A distinct name for each path: its last part, numbered where that is not enough."""
    last = [path.rstrip("/").rpartition("/")[2] or path for path in paths]
    names: list[str] = []
    for place, name in enumerate(last):
        found = name if last.count(name) == 1 else f"{name}-{place + 1}"
        while found in names or (found != name and found in last):
            found += "-"
        names.append(found)
    return names
