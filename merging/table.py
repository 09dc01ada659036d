"""Every merge method: a table that one can read from top to bottom.

Sorted by name. The module of a method bears its name.
"""

from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.merging.method import Method


class Kind(StrEnum):
    """Which contract of `weft.merging.method` a method keeps."""

    FOLD = "fold"
    COMBINATION = "combination"
    SEQUENTIAL = "sequential"
    JOINT = "joint"
    TRANSFORM = "transform"
    CALIBRATION = "calibration"


@dataclass(frozen=True, slots=True)
class Entry:
    """One method: its name, where it is, what it is, whose it is.

    Attributes:
        experimental: the paper's formula was not to be had, or is our own proposal.
    """

    name: str
    module: str
    class_name: str
    kind: Kind
    paper: str
    about: str = ""
    experimental: bool = False

    def load(self) -> "type[Method]":
        """The method's class; imports its module."""
        found: type[Method] = getattr(import_module(self.module), self.class_name)
        return found


def _fold(
    name: str, class_name: str, paper: str, about: str, *, experimental: bool = False
) -> Entry:
    return _entry(name, class_name, Kind.FOLD, paper, about, experimental)


def _combination(
    name: str, class_name: str, paper: str, about: str, *, experimental: bool = False
) -> Entry:
    return _entry(name, class_name, Kind.COMBINATION, paper, about, experimental)


def _joint(
    name: str, class_name: str, paper: str, about: str, *, experimental: bool = False
) -> Entry:
    return _entry(name, class_name, Kind.JOINT, paper, about, experimental)


def _transform(
    name: str, class_name: str, paper: str, about: str, *, experimental: bool = False
) -> Entry:
    return _entry(name, class_name, Kind.TRANSFORM, paper, about, experimental)


def _entry(
    name: str, class_name: str, kind: Kind, paper: str, about: str, experimental: bool
) -> Entry:
    module = f"weft.merging.methods.{name}"
    return Entry(name, module, class_name, kind, paper, about, experimental)


TABLE = (
    _entry(
        "ema",
        "Ema",
        Kind.SEQUENTIAL,
        "arXiv:2408.14471",
        "a moving average of what comes in",
        False,
    ),
    _fold("magmax", "MagMax", "arXiv:2407.06322", "at each place, the one that moved furthest"),
    _fold("mean", "Mean", "arXiv:2203.05482", "the weighted mean: model soups"),
    _fold(
        "task_arithmetic", "TaskArithmetic", "arXiv:2212.04089", "the scaled sum; negative unlearns"
    ),
)
