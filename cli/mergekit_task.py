"""A recipe of mergekit's as it was read, and how a recipe of weft's is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.cli.mergekit_parameters import Parameters, Reference
from weft.cli.recipe import ModelEntry, Recipe, Slice, Source, Step, names_of
from weft.cli.recipe_values import BadRecipe
from weft.cli.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Task:
    """A recipe of mergekit's, read but not understood.

    Attributes:
        notes: what is to be told; see `note`.
    """

    method: str
    base: Reference | None
    parameters: Parameters
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Have something told with the recipe, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def models(self) -> list[Reference]:
        """All that are listed, the base too where it is; in the file's order."""
        return list(self.parameters.inputs[0].own)

    @property
    def others(self) -> list[Reference]:
        """All that are listed but the base."""
        return [model for model in self.models if model != self.base]

    @property
    def with_base(self) -> list[Reference]:
        """As mergekit sees them: a base that is not listed comes last; not so in slices."""
        if self.base is None or self.base in self.models or self.parameters.inputs[0].ranges:
            return self.models
        return [*self.models, self.base]

    def needed_base(self) -> Reference:
        """The base.

        Raises:
            BadRecipe: there is none, or a slice leaves it out.
        """
        if self.base is None:
            raise BadRecipe(f"base_model is missing; {self.method} needs it")
        for place, each in enumerate(self.parameters.inputs):
            if each.ranges and self.base not in each.ranges:
                raise BadRecipe(
                    f"slices[{place}].sources: the base_model {self.base} is not among them"
                )
        return self.base


def recipe_for(
    task: Task,
    method: str,
    models: Sequence[Reference],
    *,
    base: Reference | None = None,
    weights: Sequence[Schedule] | None = None,
    values: Mapping[str, Schedule] | None = None,
    options: Mapping[str, object] | None = None,
    steps: Sequence[tuple[Step, ...]] | None = None,
) -> Recipe:
    """The recipe of a task; what is not given has one value for all, or none.

    Args:
        task: whose slices, files and notes the recipe has.
        method: weft's.
        models: the contributions.
        base: their common base.
        weights: one for each model; without them 1.
        values: hyperparameters, each a number or one for each tensor.
        options: other hyperparameters.
        steps: for each model what comes before the merge.

    Raises:
        BadRecipe: no models, or a slice that lacks one.
    """
    if not models:
        raise BadRecipe(f"models: none but the base_model, and {task.method} needs one or more")
    constant, scheduled = split(values or {})
    weights = weights or [Schedule.constant(1.0)] * len(models)
    steps = steps or [()] * len(models)
    alike = all(each == steps[0] for each in steps)
    names = names_of([str(model) for model in models])
    entries = tuple(
        ModelEntry(
            path=model.path,
            adapter=model.adapter,
            weight=weight,
            name=name,
            before=() if alike else before,
        )
        for model, name, weight, before in zip(models, names, weights, steps, strict=True)
    )
    return Recipe(
        method=method,
        options={**(options or {}), **constant},
        scheduled=scheduled,
        base=None if base is None else base.path,
        models=entries,
        before=steps[0] if alike else (),
        slices=_slices(task, models, base),
        sidecars=(task.base or task.models[0]).path,
        notes=tuple(task.notes),
    )


def split(values: Mapping[str, Schedule]) -> tuple[dict[str, object], dict[str, Schedule]]:
    """Hyperparameters that are the same for every tensor, and those that vary."""
    constant: dict[str, object] = {}
    varying: dict[str, Schedule] = {}
    for name, value in values.items():
        if value.is_constant:
            constant[name] = value.anchors[0]
        else:
            varying[name] = value
    return constant, varying


def _slices(task: Task, models: Sequence[Reference], base: Reference | None) -> tuple[Slice, ...]:
    found = []
    for place, each in enumerate(task.parameters.inputs):
        if not each.ranges:
            return ()
        for model in models:
            if model not in each.ranges:
                raise BadRecipe(f"slices[{place}].sources: {model} is not among them")
        sources = tuple(Source(model.path, *each.ranges[model]) for model in models)
        under = None if base is None else Source(base.path, *each.ranges[base])
        found.append(Slice(sources=sources, base=under))
    return tuple(found)


def weights_of(task: Task, models: Sequence[Reference]) -> list[Schedule]:
    """The weight of each model."""
    return [task.parameters.schedule("weight", model) for model in models]


def plain_numbers(weights: Sequence[Schedule]) -> list[float] | None:
    """The weights where they are the same for every tensor."""
    if not all(weight.is_constant for weight in weights):
        return None
    return [weight.anchors[0] for weight in weights]
