"""Experiments of a moment, as documents."""

from pathlib import Path
from typing import Any

from weft.simulations.experiments.cells import Experiment
from weft.simulations.experiments.reading import experiment_of
from weft.simulations.experiments.sweeps import overridden

Document = dict[str, Any]

TINY: Document = {
    "experiment": {"name": "tiny", "rounds": 2, "seeds": [0, 1]},
    "task": {"nodes": 3, "steps": 1, "batch": 8, "limit": 60},
    "topology": {"graph": "ring"},
}
"""Trains a moment."""

SILENT: Document = {
    "experiment": {"name": "silent", "engine": "gossip", "rounds": 4},
    "task": {"nodes": 6},
}
"""Trains nothing."""


def tiny(**sections: Document) -> Document:
    """`TINY` with some keys of its own."""
    return overridden(TINY, sections)


def silent(**sections: Document) -> Document:
    """`SILENT` with some keys of its own."""
    return overridden(SILENT, sections)


def read(document: Document, folder: Path = Path(), *changes: str) -> Experiment:
    """As from a file."""
    return experiment_of(document, where="some.toml", folder=folder, changes=changes)
