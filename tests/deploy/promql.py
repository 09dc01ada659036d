"""What a Prometheus query names: its metrics, the labels it selects and groups by.

Not a parser: queries are taken for well formed, and cut into the few kinds of words
that a query has. Enough to tell that a panel asks for something that no daemon shows.
"""

import re
from dataclasses import dataclass

WORD = re.compile(
    r"""
    (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')   # a string
    | (?P<span>\[[^\]]*\])                          # a range: [5m], [$__rate_interval]
    | (?P<number>\d[\w.]*)                          # a number or a duration
    | (?P<name>[a-zA-Z_:][\w:]*)                    # a metric, label, function or keyword
    | (?P<sign>[{}()=!~,])
    """,
    re.VERBOSE,
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
KEYWORDS = GROUPING | {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}


@dataclass(frozen=True, slots=True)
class Query:
    """The names in a query: labels selected by metric, labels grouped by, labels matched on."""

    selected: dict[str, set[str]]
    grouped: set[str]
    matched: set[str]


def read_query(expression: str) -> Query:
    """Take the names out of a query."""
    words = [(match.lastgroup, match.group()) for match in WORD.finditer(expression)]
    query = Query({}, set(), set())
    at = 0
    while at < len(words):
        kind, word = words[at]
        after = words[at + 1][1] if at + 1 < len(words) else ""
        if kind != "name" or is_called(word, after):
            at += 1
        elif word.lower() in GROUPING and after == "(":
            labels, at = names_until(")", words, at + 2)
            (query.grouped if word.lower() == "by" else query.matched).update(labels)
        elif word.lower() in KEYWORDS:
            at += 1
        else:
            labels, at = names_until("}", words, at + 2) if after == "{" else (set(), at + 1)
            query.selected.setdefault(word, set()).update(labels)
    return query


def is_called(word: str, after: str) -> bool:
    """Whether a name is a function or an aggregation: `rate(x)`, `sum by (node) (x)`."""
    return (after == "(" and word.lower() not in KEYWORDS) or after in {"by", "without"}


def names_until(end: str, words: list[tuple[str | None, str]], start: int) -> tuple[set[str], int]:
    """The names from a place up to a closing sign, and the place after it."""
    stop = next(at for at in range(start, len(words)) if words[at][1] == end)
    return {word for kind, word in words[start:stop] if kind == "name"}, stop + 1
