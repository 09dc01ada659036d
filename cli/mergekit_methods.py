"""mergekit's merge methods in weft's terms.

    mergekit           weft                         parameters
    linear             mean, without a base         weight, normalize
    slerp              slerp: base, then the other  t
    nuslerp            slerp                        weight: t = w2 / (w1 + w2)
    multislerp         multi_slerp                  weight, normalize_weights
    karcher            karcher                      max_iter, tol
    model_stock        model_stock
    sce                sce                          select_topk
    ram                ram                          epsilon
    ramplus_tl         ram_plus                     r, alpha, epsilon
    task_arithmetic    task_arithmetic              weight, lambda, normalize
    dare_linear        dare, task_arithmetic        and density, rescale
    della_linear       della, task_arithmetic       and density, epsilon
    breadcrumbs        breadcrumbs, task_arithmetic and density, gamma
    ties               trim, ties                   as task_arithmetic, and density
    dare_ties          dare, ties                   as dare_linear
    della              della, ties                  as della_linear
    breadcrumbs_ties   breadcrumbs, ties            as breadcrumbs
    passthrough        a copy

`normalize` divides the sum of w D by the sum of w: by that of all models without an
election of signs (`mean`), by that of the models that agree in ties (`disjoint: mean`;
without it `disjoint: sum`). Trims are of each tensor, with mergekit's rank.

Where weft differs: equal magnitudes at a cut are all kept; where weighted task vectors
sum to exactly zero, ties keeps the base (mergekit: the positive ones); model_stock takes a
mean cosine below zero as zero; slerp, for nuslerp too, is linear beyond a cosine of 0.9995.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from weft.cli.mergekit_task import Task, plain_numbers, recipe_for, weights_of
from weft.cli.mergekit_vectors import TASK_VECTORS, merged_task_vectors
from weft.cli.recipe import PASSTHROUGH, ModelEntry, Recipe, Slice, Source, names_of
from weft.cli.recipe_values import BadRecipe, nearest
from weft.cli.schedule import Schedule

_OF_MODELS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(TASK_VECTORS, ("weight", "density")),
    "task_arithmetic": ("weight",),
    **dict.fromkeys(("breadcrumbs", "breadcrumbs_ties"), ("weight", "density", "gamma")),
    **dict.fromkeys(("della", "della_linear"), ("weight", "density", "epsilon")),
    **dict.fromkeys(("linear", "nuslerp", "multislerp"), ("weight",)),
    PASSTHROUGH: ("scale",),
}
"""The parameters that each model may have for itself, by method."""

_OF_ALL: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(TASK_VECTORS, ("int8_mask", "normalize", "rescale", "lambda")),
    "task_arithmetic": ("int8_mask", "normalize", "lambda"),
    "linear": ("normalize",),
    "slerp": ("t",),
    "nuslerp": ("nuslerp_row_wise", "nuslerp_flatten"),
    "multislerp": ("normalize_weights", "eps"),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
    "sce": ("int8_mask", "select_topk"),
    "ram": ("epsilon",),
    "ramplus_tl": ("r", "alpha", "epsilon"),
    PASSTHROUGH: (),
}
"""The other parameters, by method."""

METHODS: Final = tuple(_OF_ALL)
"""The methods of mergekit that are read."""

_MEMORY_ONLY: Final = frozenset({"int8_mask", "eps"})


def translated(task: Task) -> Recipe:
    """The recipe in weft's terms; without dtype.

    Raises:
        BadRecipe: a method that weft does not have, or a parameter that cannot be honoured.
    """
    if task.method not in METHODS:
        raise BadRecipe(
            f"merge_method: mergekit's {task.method!r} is not read{nearest(task.method, METHODS)}"
        )
    _note_parameters(task)
    if task.method in TASK_VECTORS:
        return merged_task_vectors(task)
    return _TRANSLATORS[task.method](task)


def _note_parameters(task: Task) -> None:
    """Say of each parameter that nothing reads that it makes no difference; refuse typos."""
    own, shared = _OF_MODELS.get(task.method, ()), _OF_ALL[task.method]
    known = {name for names in (*_OF_MODELS.values(), *_OF_ALL.values()) for name in names}
    for level, name, of_model in task.parameters.given():
        place = f"{level.where}.{name}"
        if name not in known:
            raise BadRecipe(f"{place}: unknown parameter{nearest(name, sorted(known))}")
        if name not in own and name not in shared:
            task.note(f"{place} makes no difference: {task.method} does not read it")
        elif of_model and name not in own:
            task.note(f"{place} makes no difference: it is read from the top only")
        elif name in _MEMORY_ONLY:
            task.note(f"{place} makes no difference: weft needs no such aid")


def _linear(task: Task) -> Recipe:
    weights = weights_of(task, task.models)
    if not task.parameters.flag("normalize", True):
        shares = plain_numbers(weights)
        if shares is None or abs(math.fsum(shares) - 1) > 1e-6:
            raise BadRecipe(
                "parameters.normalize: linear without it is read only where the weights are "
                "plain numbers that sum to 1"
            )
    if task.base is not None and task.base not in task.models:
        task.note(
            f"base_model: {task.base} is not among the models: only its configuration and "
            "tokenizer files are taken"
        )
    return recipe_for(task, "mean", task.models, weights=weights)


def _slerp(task: Task) -> Recipe:
    base = task.needed_base()
    others = task.others
    if len(others) != 1:
        raise BadRecipe(f"models: found {len(others)} besides the base_model, slerp needs one")
    values = {"t": task.parameters.schedule("t")}
    return recipe_for(task, "slerp", [base, *others], values=values)


def _nuslerp(task: Task) -> Recipe:
    if task.parameters.flag("nuslerp_row_wise", False) or not task.parameters.flag(
        "nuslerp_flatten", True
    ):
        raise BadRecipe(
            "parameters: nuslerp by rows or columns is not read, only nuslerp_flatten: true"
        )
    base = None if task.base is None else task.needed_base()
    if len(task.others) != 2:
        raise BadRecipe(
            f"models: found {len(task.others)} besides any base_model, nuslerp needs two"
        )
    shares = plain_numbers(weights_of(task, task.others))
    if shares is None:
        raise BadRecipe("parameter 'weight': varies from tensor to tensor; nuslerp takes numbers")
    total = sum(shares)
    t = shares[1] / total if abs(total) >= 1e-6 else 0.5
    return recipe_for(task, "slerp", task.others, base=base, values={"t": Schedule.constant(t)})


def _multi_slerp(task: Task) -> Recipe:
    base = None if task.base is None else task.needed_base()
    weights = weights_of(task, task.others)
    if not task.parameters.flag("normalize_weights", True):
        shares = plain_numbers(weights)
        if shares is None or abs(math.fsum(shares) - 1) > 1e-6:
            raise BadRecipe(
                "parameters.normalize_weights: multislerp without it is read only where the "
                "weights are plain numbers that sum to 1"
            )
    return recipe_for(task, "multi_slerp", task.others, base=base, weights=weights)


def _karcher(task: Task) -> Recipe:
    steps = task.parameters.number("max_iter", 10)
    if steps != int(steps):
        raise BadRecipe(f"parameters.max_iter: found {steps:g}, expected a whole number")
    options = {"iterations": int(steps), "tolerance": task.parameters.number("tol", 1e-5)}
    return recipe_for(task, "karcher", task.with_base, options=options)


def _model_stock(task: Task) -> Recipe:
    base = task.needed_base()
    if task.parameters.flag("filter_wise", False):
        raise BadRecipe("parameters.filter_wise: model_stock takes whole tensors; set it to false")
    if len(task.others) < 2:
        raise BadRecipe(
            f"models: found {len(task.others)} besides the base_model, model_stock needs two"
        )
    return recipe_for(task, "model_stock", task.others, base=base)


def _sce(task: Task) -> Recipe:
    task.note(
        "sce weighs by energy everywhere; mergekit weighs all alike in a tensor whose task "
        "vectors have mean squares that sum to less than 1e-6"
    )
    values = {"select": task.parameters.schedule("select_topk", default=1.0)}
    return recipe_for(task, "sce", task.others, base=task.needed_base(), values=values)


def _ram(task: Task) -> Recipe:
    values = {"threshold": task.parameters.schedule("epsilon", default=1e-5)}
    return recipe_for(task, "ram", task.others, base=task.needed_base(), values=values)


def _ram_plus(task: Task) -> Recipe:
    values = {
        "rate": task.parameters.schedule("r", default=0.1),
        "ceiling": task.parameters.schedule("alpha", default=0.2),
        "threshold": task.parameters.schedule("epsilon", default=1e-5),
    }
    return recipe_for(task, "ram_plus", task.others, base=task.needed_base(), values=values)


def _passthrough(task: Task) -> Recipe:
    for place, each in enumerate(task.parameters.inputs):
        if len(each.own) != 1:
            where = f"slices[{place}].sources" if each.ranges else "models"
            raise BadRecipe(f"{where}: found {len(each.own)}, passthrough needs one")
        (model,) = each.own
        for level in each.levels(model):
            if level.table.get("scale") not in (None, 1, 1.0):
                raise BadRecipe(f"{level.where}.scale: passthrough copies {model}; remove it")
    (model,) = task.parameters.inputs[0].own
    slices = tuple(
        Slice(sources=(Source(source.path, *each.ranges[source]),))
        for each in task.parameters.inputs
        for source in each.ranges
    )
    name = "stack" if slices else names_of([str(model)])[0]
    entry = ModelEntry(
        path=model.path, adapter=model.adapter, name=name, weight=Schedule.constant(1.0)
    )
    return Recipe(
        method=PASSTHROUGH,
        models=(entry,),
        slices=slices,
        sidecars=(task.base or model).path,
        notes=tuple(task.notes),
    )


_TRANSLATORS: Final[Mapping[str, Callable[[Task], Recipe]]] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "multislerp": _multi_slerp,
    "karcher": _karcher,
    "model_stock": _model_stock,
    "sce": _sce,
    "ram": _ram,
    "ramplus_tl": _ram_plus,
    PASSTHROUGH: _passthrough,
}
