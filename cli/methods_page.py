"""The page of all methods: what each rests on, written from the methods' own words."""

import inspect
from collections.abc import Sequence

from weft.merging.table import Entry

HEAD = """# Merge methods

`weft methods` lists them, `weft methods NAME` tells one in full: formula, hyperparameters
with defaults and ranges, needs. This page is printed by `weft methods --markdown`; a test
holds it to the code.

*exact*: the paper's formula, or that of the authors' released code, with the departures that
the last column tells. *experimental*: that formula was not to be had, or is our proposal.
Every method has an independent reference in `tests/references/`, which imports nothing from
weft and works on whole models in float64.

| method | kind | standing | paper | source, and where we depart from it |
| --- | --- | --- | --- | --- |
"""


def page(table: Sequence[Entry]) -> str:
    """The page, in Markdown."""
    return HEAD + "".join(f"{_row(entry)}\n" for entry in table)


def _row(entry: Entry) -> str:
    standing = "experimental" if entry.experimental else "exact"
    cells = (f"`{entry.name}`", entry.kind.value, standing, entry.paper, _source(entry))
    return f"| {' | '.join(cells)} |"


def _source(entry: Entry) -> str:
    """The docstring's last word: the paragraph that begins with `Source:`."""
    documentation = inspect.cleandoc(entry.load().__doc__ or "")
    _, _, source = documentation.partition("Source:")
    return " ".join(source.split()).replace("|", "\\|")
