"""From a recipe to the job of a merge: names become methods, schedules become functions."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from weft.checkpoints.engine import MergeSpec, Tailored
from weft.checkpoints.job import Input, LayersOf
from weft.checkpoints.merge_spec import After, Varied
from weft.cli.recipe import PASSTHROUGH, Recipe, Slice, Source, Step
from weft.cli.schedule import Schedule
from weft.merging.errors import BadOption
from weft.merging.layers import layers
from weft.merging.method import Calibration, Extent, Fold, Method, Transform
from weft.merging.precision import Precision
from weft.merging.registry import create

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.merging.method import Layer

PROBED_ELEMENTS = 10**9


class Depths:
    """Where tensors stand in the model's depth, found when a schedule asks for it.

    Args:
        names: gives the names of all tensors.
    """

    def __init__(self, names: "Callable[[], Sequence[str]]") -> None:
        self._names = names
        self._found: Mapping[str, Layer] | None = None

    def value(self, schedule: Schedule, name: str) -> float:
        """What the schedule says for a tensor."""
        if schedule.is_constant:
            return schedule.anchors[0]
        if self._found is None:
            self._found = layers(self._names())
        layer = self._found[name]
        return schedule.at(name, layer.index, layer.count)


def spec_of(recipe: Recipe, precision: Precision, depths: Depths, device: str = "cpu") -> MergeSpec:
    """The method and its steps.

    Raises:
        UnknownMethod, BadOption: what the table of methods does not have, or refuses.
    """
    usual = _created(recipe.method, recipe.options, recipe.scheduled)
    if isinstance(usual, Transform | Calibration):
        raise BadOption(
            f"{recipe.method} changes a task vector and merges none; it stands before or after"
            " a method that does, such as mean"
        )
    return MergeSpec(
        method=usual,
        before=tuple(_transform(step, depths) for step in recipe.before),
        own={
            model.name: tuple(_transform(step, depths) for step in model.before)
            for model in recipe.models
            if model.before
        },
        after=tuple(_after(step) for step in recipe.after),
        # A copy is a sum of one: in float64 it gives the very bits back.
        precision=Precision.FLOAT64 if recipe.method == PASSTHROUGH else precision,
        device=device,
        tailor=_tailor(recipe, usual, depths),
    )


def inputs_of(recipe: Recipe) -> tuple[Input | None, tuple[Input, ...]]:
    """The base and the models as files."""
    base = None
    if recipe.base is not None:
        cut = tuple(_layers(each.base) for each in recipe.slices if each.base is not None)
        base = Input(path=Path(recipe.base), name=recipe.base, slices=cut)
    models = tuple(
        Input(
            path=Path(model.path),
            name=model.name,
            weight=_usual_weight(model.weight),
            adapter=None if model.adapter is None else Path(model.adapter),
            slices=_stack(recipe.slices, index),
        )
        for index, model in enumerate(recipe.models)
    )
    return base, models


def _stack(slices: Sequence[Slice], index: int) -> tuple[LayersOf, ...]:
    return tuple(_layers(each.sources[index]) for each in slices)


def _layers(source: Source) -> LayersOf:
    return LayersOf(Path(source.path), source.first, source.stop)


def _usual_weight(weight: Schedule) -> float:
    """A weight that is not zero unless all are: zero would leave the model out."""
    return weight.anchors[0] if weight.is_constant else max(weight.anchors, key=abs)


def _created(name: str, options: Mapping[str, object], scheduled: Mapping[str, Schedule]) -> Method:
    """A method; what varies has the value that asks for most, and all its values are tried."""
    if name == PASSTHROUGH:
        name = "mean"
    values = {option: schedule.anchors[0] for option, schedule in scheduled.items()}
    for option, schedule in scheduled.items():
        made = {
            each: create(name, **options, **{**values, option: each}) for each in schedule.anchors
        }
        if any(_model_ranks(one) != _model_ranks(two) for one, two in pairwise(made.values())):
            raise BadOption(
                f"{name}: {option} cannot vary from tensor to tensor where magnitudes are"
                " ranked over the whole model; set extent to tensor"
            )
        values[option] = max(made, key=lambda each: _asked(made[each]))
    return create(name, **options, **values)


def _asked(method: Method) -> tuple[int, int]:
    """Ranks and looks: with a density of 1, say, there are none of the former."""
    return len(method.cuts), method.phases if isinstance(method, Fold) else 1


def _model_ranks(method: Method) -> list[int]:
    return [cut.rank(PROBED_ELEMENTS) for cut in method.cuts if cut.extent is Extent.MODEL]


def _transform(step: Step, depths: Depths) -> Transform | Varied:
    usual = _created(step.name, step.options, step.scheduled)
    if not isinstance(usual, Transform):
        raise BadOption(f"{step.name} is no transform; before a merge only transforms can stand")
    if not step.scheduled:
        return usual

    def at(name: str) -> Transform:
        values = {each: depths.value(found, name) for each, found in step.scheduled.items()}
        made = create(step.name, **step.options, **values)
        return made if isinstance(made, Transform) else usual

    return Varied(usual=usual, at=at)


def _after(step: Step) -> After:
    if step.scheduled:
        raise BadOption(
            f"{step.name}: {', '.join(step.scheduled)} cannot vary by tensor after a merge"
        )
    made = create(step.name, **step.options)
    if not isinstance(made, Transform | Calibration):
        raise BadOption(
            f"{step.name} merges; after a merge only transforms and calibrations can stand"
        )
    return made


def _tailor(recipe: Recipe, usual: Method, depths: Depths) -> "Callable[[str], Tailored] | None":
    """Method and weights by tensor, where anything varies."""
    weights = [model.weight for model in recipe.models]
    if not recipe.scheduled and all(weight.is_constant for weight in weights):
        return None
    present = [weight for weight in weights if _usual_weight(weight) != 0]

    def at(name: str) -> Tailored:
        values = {each: depths.value(found, name) for each, found in recipe.scheduled.items()}
        return Tailored(
            method=create(recipe.method, **recipe.options, **values) if values else usual,
            weights=tuple(depths.value(weight, name) for weight in present),
        )

    return at
