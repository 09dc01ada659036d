"""Whatever a file holds: a recipe, or one line; never another error."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.cli.mergekit import recipe_of_mergekit
from weft.cli.mergekit_methods import METHODS
from weft.cli.recipe import BadRecipe, Recipe
from weft.cli.recipe_form import recipe_of_form
from weft.cli.schedule import Schedule

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.floats(),
    st.just(10**400),
    st.sampled_from(["", "a", "b", "base", "a+b", "a@b", "1e-3", "union", "float16", "mlp", "nan"]),
)
names = st.sampled_from(
    [
        *("a", "b", "base", "t", "weight", "density", "normalize", "lambda", "scale", "epsilon"),
        *("model", "parameters", "layer_range", "path", "name", "method", "options", "layers"),
        *("filter", "value", "source", "sources", "before", "tol", "max_iter", "gamma", "r"),
    ]
)
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(names | st.integers(0, 1), inner, max_size=4)
    ),
    max_leaves=8,
)
numbers = st.one_of(
    st.integers(-2, 5),
    st.lists(st.floats(-1, 2), max_size=3),
    st.lists(st.fixed_dictionaries({"value": plain}, optional={"filter": plain}), max_size=3),
    values,
)
parameters = st.dictionaries(names, numbers, max_size=3)
paths = st.sampled_from(["a", "b", "c", "base", "a+x"])
ranges = st.lists(st.integers(0, 4), min_size=2, max_size=2)
models = st.lists(st.fixed_dictionaries({"model": paths}, optional={"parameters": parameters}))
sources = st.lists(
    st.fixed_dictionaries(
        {"model": paths, "layer_range": ranges}, optional={"parameters": parameters}
    ),
    max_size=3,
)
slices = st.lists(
    st.fixed_dictionaries({"sources": sources}, optional={"parameters": parameters}), max_size=3
)
mergekit = st.fixed_dictionaries(
    {"merge_method": st.sampled_from(METHODS)},
    optional={
        "base_model": paths | values,
        "models": models | values,
        "slices": slices | values,
        "parameters": parameters | values,
        "dtype": values,
        "out_dtype": values,
        "tokenizer_source": values,
        "tokenizer": values,
    },
)
entries = st.lists(
    st.fixed_dictionaries(
        {"path": paths},
        optional={"weight": numbers, "name": plain, "adapter": plain, "before": values},
    ),
    max_size=3,
)
ours = st.fixed_dictionaries(
    {"method": st.sampled_from(["mean", "passthrough"])},
    optional={
        "models": entries | values,
        "options": st.dictionaries(names, numbers) | values,
        "before": values,
        "after": values,
        "base": plain,
        "sidecars": plain,
        "slices": values
        | st.lists(st.fixed_dictionaries({"layers": st.dictionaries(paths, ranges)}), max_size=3),
    },
)


def check(recipe: Recipe) -> None:
    """What whoever follows a recipe relies on."""
    assert recipe.models
    assert len({entry.name for entry in recipe.models}) == len(recipe.models)
    for each in recipe.slices:
        assert {source.layers for source in each.sources} == {each.layers}
        assert len(each.sources) == len(recipe.models)
    layers = recipe.layers or 4
    schedules: list[Schedule] = [*recipe.scheduled.values()]
    for entry in recipe.models:
        schedules.append(entry.weight)
        for step in (*entry.before, *recipe.before):
            schedules += step.scheduled.values()
    for schedule in schedules:
        for layer in (None, *range(layers)):
            found = schedule.at("model.layers.0.mlp", layer, layers)
            least, most = min(schedule.anchors), max(schedule.anchors)
            assert least - 1e-6 <= found <= most + 1e-6


def check_reading(read: Callable[[], Recipe]) -> None:
    """A recipe that can be relied on, or one short line."""
    message = ""
    try:
        check(read())
    except BadRecipe as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 600


@settings(max_examples=400, deadline=None)
@given(mergekit)
def test_anything_in_mergekits_form(document: dict[str, object]) -> None:
    check_reading(lambda: recipe_of_mergekit(document))


@settings(max_examples=400, deadline=None)
@given(ours)
def test_anything_in_our_form(document: dict[str, object]) -> None:
    check_reading(lambda: recipe_of_form(document, Path("/r")))
