"""mergekit's methods on task vectors: made sparse, weighted, their signs elected or not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weft.cli.mergekit_parameters import Reference
from weft.cli.mergekit_task import Task, plain_numbers, recipe_for, split, weights_of
from weft.cli.recipe import Recipe, Step
from weft.cli.recipe_values import BadRecipe
from weft.cli.schedule import Schedule


@dataclass(frozen=True, slots=True)
class TaskVectors:
    """One of mergekit's methods on weighted task vectors.

    Attributes:
        step: what makes each sparse.
        elects: whether signs are elected.
        normalizes: whether the sum is divided by that of the weights, by default.
        rescales: likewise whether the sparse one gets the norm of the whole.
    """

    step: str | None
    elects: bool
    normalizes: bool = False
    rescales: bool = False


TASK_VECTORS: Final[Mapping[str, TaskVectors]] = {
    "task_arithmetic": TaskVectors(None, elects=False),
    "ties": TaskVectors("trim", elects=True, normalizes=True),
    "dare_linear": TaskVectors("dare", elects=False, rescales=True),
    "dare_ties": TaskVectors("dare", elects=True, rescales=True),
    "della_linear": TaskVectors("della", elects=False, rescales=True),
    "della": TaskVectors("della", elects=True, normalizes=True, rescales=True),
    "breadcrumbs": TaskVectors("breadcrumbs", elects=False),
    "breadcrumbs_ties": TaskVectors("breadcrumbs", elects=True),
}


def merged_task_vectors(task: Task) -> Recipe:
    """The recipe of a task whose method is one of `TASK_VECTORS`.

    Raises:
        BadRecipe: a parameter that cannot be honoured; names it, and the model.
    """
    kind = TASK_VECTORS[task.method]
    base, others = task.needed_base(), task.others
    weights = weights_of(task, others)
    scale = task.parameters.schedule("lambda", default=1.0)
    normalizes = task.parameters.flag("normalize", kind.normalizes)
    rescales = task.parameters.flag("rescale", kind.rescales)
    steps = [_steps(task, kind.step, model, rescales) for model in others]
    if kind.step == "dare" and any(steps):
        task.note(
            "what dare drops is drawn by weft: not the elements mergekit drops; what is left is"
            " divided by the share kept, as in the paper, where mergekit matches the L1 norm of"
            " each tensor: the same in expectation"
        )
    if kind.elects:
        if normalizes:
            _refuse_negative(task, others, weights)
        options = {"density": 1.0, "disjoint": "mean" if normalizes else "sum"}
        return recipe_for(
            *(task, "ties", others),
            base=base,
            weights=weights,
            values={"scale": scale},
            options=options,
            steps=steps,
        )
    method, weights, values = _summed(weights, scale, normalizes)
    return recipe_for(task, method, others, base=base, weights=weights, values=values, steps=steps)


def _summed(
    weights: list[Schedule], scale: Schedule, normalizes: bool
) -> tuple[str, list[Schedule], dict[str, Schedule]]:
    """Method, weights and options of lambda times the sum of w D, or of its mean."""
    if not normalizes:
        return "task_arithmetic", weights, {"scale": scale}
    shares = plain_numbers(weights)
    if shares is None:
        if scale.anchors != (1.0,):
            raise BadRecipe(
                "parameters.lambda: not with normalize and weights that vary from tensor to "
                "tensor; scale the weights' values or leave lambda out"
            )
        return "mean", weights, {}
    total = math.fsum(shares)
    # mergekit leaves weights as they are whose sum is as good as zero.
    divided = [
        Schedule.constant(share / total if abs(total) >= 1e-8 else share) for share in shares
    ]
    return "task_arithmetic", divided, {"scale": scale}


def _refuse_negative(task: Task, models: Sequence[Reference], weights: Sequence[Schedule]) -> None:
    for model, weight in zip(models, weights, strict=True):
        if min(weight.anchors) < 0:
            raise BadRecipe(
                f"parameter 'weight' of model {model}: below zero, which {task.method} reads "
                "otherwise with normalize; set normalize to false"
            )


def _steps(task: Task, step: str | None, model: Reference, rescales: bool) -> tuple[Step, ...]:
    """What makes a model's task vector sparse; nothing where all of it is kept."""
    if step is None:
        return ()
    density = task.parameters.schedule("density", model, 1.0)
    if density.is_constant and density.anchors[0] >= 1:
        return ()
    options, values = _sparse(task, step, model, density)
    options.update(_rescaled(task, step, rescales))
    constant, scheduled = split(values)
    return (Step(name=step, options={**options, **constant}, scheduled=scheduled),)


def _sparse(
    task: Task, step: str, model: Reference, density: Schedule
) -> tuple[dict[str, object], dict[str, Schedule]]:
    values = {"density": density}
    if step == "della":
        values["epsilon"] = task.parameters.schedule("epsilon", model, 0.15)
    if step == "breadcrumbs":
        gamma = task.parameters.schedule("gamma", model, 0.01)
        if density.is_constant and gamma.is_constant:
            # Of what is dropped the outliers come first, but no more than are dropped.
            gamma = Schedule.constant(min(gamma.anchors[0], 1 - density.anchors[0]))
        values["gamma"] = gamma
    tensor_wise = step in {"trim", "breadcrumbs"}
    return ({"extent": "tensor"} if tensor_wise else {}), values


def _rescaled(task: Task, step: str, rescales: bool) -> dict[str, object]:
    if step == "dare":
        return {"rescale": "exact" if rescales else "none"}
    if step == "della":
        if not rescales:
            raise BadRecipe(f"parameters.rescale: {task.method} without it is not read")
        task.note(
            "della is rescaled as in its paper, each element by its own probability; mergekit "
            "scales the tensor to its L1 norm, and draws other elements"
        )
    elif rescales:
        raise BadRecipe(f"parameters.rescale: {task.method} with it is not read; set it to false")
    return {}
