"""From a document with lists to documents without: overriding, setting, the product. Pure.

>>> document = {"task": {"nodes": [4, 8], "lr": 0.1}, "experiment": {"seeds": [0, 1]}}
>>> [point.swept for point in points(document)][:2]
[{'task.nodes': 4, 'experiment.seeds': 0}, {'task.nodes': 4, 'experiment.seeds': 1}]
"""

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from weft.simulations.errors import BadExperiment

Document: TypeAlias = dict[str, Any]

SEEDS = "experiment.seeds"
"""The key that is swept innermost, and over which figures are averaged."""

MOST_CELLS = 100_000

_NAMED = (
    ("topology", "graph", "options"),
    ("schedule", "name", "options"),
    ("learning", "rule", "options"),
    ("task", "trainer", "options"),
    ("task", "model", "model_options"),
)
"""Options belong to a name: (section, key of the name, key of its options)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a sweep.

    Attributes:
        swept: the value of each swept key, dotted, in the order of the file, seeds last.
        document: without lists.
    """

    swept: Mapping[str, Any]
    document: Document


def overridden(document: Mapping[str, Any], by: Mapping[str, Any]) -> Document:
    """A document with the keys of another one instead of its own, section by section.

    Options belong to a name: where another graph, schedule, rule or trainer is named,
    the options of the first one stay behind.
    """
    kept = {
        key: dict(value) if isinstance(value, dict) else value for key, value in document.items()
    }
    for section, name, options in _NAMED:
        named = _table(by, section).get(name)
        if named is not None and named != _table(document, section).get(name):
            _table(kept, section).pop(options, None)
    return _merged(kept, by)


def with_key(document: Mapping[str, Any], text: str) -> Document:
    """A document with `section.key=value` set; the value is TOML, or else plain text.

    Raises:
        BadExperiment: not of that form.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise BadExperiment(f"--set: found {text!r}, expected section.key=value")
    found: Any = _value(value.strip())
    for part in reversed(parts):
        found = {part: found}
    return overridden(document, found)


def points(document: Mapping[str, Any]) -> Iterator[Point]:
    """All points, the first list of the document outermost and the seeds innermost.

    A key that takes a list itself is given a list of lists; a list of tables is one value.

    Raises:
        BadExperiment: a list that is empty or holds something twice, or too many points.
    """
    lists = dict(_lists(document))
    keys = [key for key in lists if key != SEEDS] + [key for key in lists if key == SEEDS]
    total = 1
    for key in keys:
        _check(key, lists[key])
        total *= len(lists[key])
    if total > MOST_CELLS:
        raise BadExperiment(f"found {total} cells, expected at most {MOST_CELLS}: sweep less")
    for values in itertools.product(*(lists[key] for key in keys)):
        swept = dict(zip(keys, values, strict=True))
        yield Point(swept=swept, document=_filled(document, swept))


def _table(document: Mapping[str, Any], section: str) -> dict[str, Any]:
    found = document.get(section)
    return found if isinstance(found, dict) else {}


def _merged(document: Mapping[str, Any], by: Mapping[str, Any]) -> Document:
    made = dict(document)
    for key, value in by.items():
        before = made.get(key)
        nested = isinstance(before, Mapping) and isinstance(value, Mapping)
        made[key] = _merged(before, value) if nested else value  # type: ignore[arg-type]
    return made


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _lists(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Sequence[Any]]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _lists(value, f"{prefix}{key}.")
        elif isinstance(value, list) and not any(isinstance(each, dict) for each in value):
            yield f"{prefix}{key}", value


def _check(key: str, values: Sequence[Any]) -> None:
    if not values:
        raise BadExperiment(f"{key}: found an empty list, expected at least one value")
    for place, value in enumerate(values):
        if any(type(value) is type(other) and value == other for other in values[:place]):
            raise BadExperiment(f"{key}: found {value!r} twice, expected each value once")


def _filled(document: Mapping[str, Any], swept: Mapping[str, Any], prefix: str = "") -> Document:
    return {
        key: _filled(value, swept, f"{prefix}{key}.")
        if isinstance(value, Mapping)
        else swept.get(f"{prefix}{key}", value)
        for key, value in document.items()
    }
