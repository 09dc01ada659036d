"""The product, its order, and what overrides what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.sweeps import Point, overridden, points, with_key


def values(found: list[Point], *keys: str) -> list[tuple[object, ...]]:
    return [tuple(point.swept[key] for key in keys) for point in found]


def test_the_first_list_is_outermost_and_seeds_are_innermost() -> None:
    document = {"experiment": {"seeds": [5, 6]}, "a": {"x": [1, 2]}, "b": {"c": {"y": ["p", "q"]}}}
    found = list(points(document))
    assert values(found, "a.x", "b.c.y", "experiment.seeds") == [
        (x, y, seed) for x in (1, 2) for y in ("p", "q") for seed in (5, 6)
    ]
    assert found[3].document == {"experiment": {"seeds": 6}, "a": {"x": 1}, "b": {"c": {"y": "q"}}}
    assert list(found[0].swept)[-1] == "experiment.seeds"


def test_without_lists_there_is_one_point() -> None:
    document = {"a": {"x": 1, "y": "text"}}
    assert list(points(document)) == [Point(swept={}, document=document)]


def test_lists_of_lists_sweep_lists_and_lists_of_tables_are_values() -> None:
    document = {"a": {"each": [[1, 2], [3]], "tables": [{"x": 1}, {"x": 2}]}}
    found = list(points(document))
    assert [point.document["a"]["each"] for point in found] == [[1, 2], [3]]
    assert all(point.document["a"]["tables"] == [{"x": 1}, {"x": 2}] for point in found)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_as_many_points_as_the_product_and_no_two_alike(sizes: list[int]) -> None:
    document = {f"k{place}": list(range(size)) for place, size in enumerate(sizes)}
    found = [tuple(point.swept.values()) for point in points(document)]
    total = 1
    for size in sizes:
        total *= size
    assert len(found) == len(set(found)) == total
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"task": {"nodes": []}}, "task.nodes: found an empty list"),
        ({"task": {"nodes": [4, 8, 4]}}, "task.nodes: found 4 twice"),
        ({str(n): list(range(100)) for n in range(4)}, "found 100000000 cells"),
    ],
)
def test_sweeps_that_cannot_be(document: dict[str, object], said: str) -> None:
    with pytest.raises(BadExperiment, match=said):
        list(points(document))


def test_true_and_one_are_two_values() -> None:
    assert len(list(points({"a": {"x": [1, True, 1.0]}}))) == 3


def test_an_arm_overrides_key_by_key() -> None:
    document = {"task": {"nodes": 4, "lr": [0.1, 0.2]}, "topology": {"graph": "ring"}}
    made = overridden(document, {"task": {"lr": 0.3}, "schedule": {"name": "sparse"}})
    assert made == {
        "task": {"nodes": 4, "lr": 0.3},
        "topology": {"graph": "ring"},
        "schedule": {"name": "sparse"},
    }
    assert document["task"] == {"nodes": 4, "lr": [0.1, 0.2]}, "what is overridden stays"


def test_options_belong_to_a_name() -> None:
    document = {"schedule": {"name": "sparse", "options": {"pairs_per_node": 0.2}}}
    more = {"schedule": {"options": {"one_way": True}}}
    assert overridden(document, more)["schedule"]["options"] == {
        "pairs_per_node": 0.2,
        "one_way": True,
    }
    same = {"schedule": {"name": "sparse"}}
    assert overridden(document, same) == document
    other = {"schedule": {"name": "every", "options": {"k": 2}}}
    assert overridden(document, other) == other
    assert document["schedule"]["options"] == {"pairs_per_node": 0.2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b = true", True),
        ("a.b=0.5", 0.5),
        ("a.b='x'", "x"),
        ("a.b=one_peer", "one_peer"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
    ],
)
def test_set_reads_toml_or_text(text: str, value: object) -> None:
    assert with_key({"a": {"c": 1}}, text) == {"a": {"c": 1, "b": value}}


@pytest.mark.parametrize("text", ["a=1", "a.b", ".b=1", "a..b=1", "=1"])
def test_set_that_cannot_be(text: str) -> None:
    with pytest.raises(BadExperiment, match=r"expected section.key=value"):
        with_key({}, text)
