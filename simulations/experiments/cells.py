"""Cells: one study each, known by a digest of what is run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from weft.checkpoints.digest import digest_of
from weft.simulations.errors import BadData
from weft.simulations.experiments.settings import CellSettings, Scalar
from weft.simulations.experiments.sweeps import SEEDS
from weft.simulations.tasks.classification import DIGITS

ID_DIGITS = 12
FORMAT = 1
"""Of what a cell keeps; another one makes all cells run anew."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of an experiment.

    Attributes:
        arm: its name in the file; empty where the file has no arms.
        swept: the value of each swept key by its dotted name, seeds last.
        settings: all of it.
        folder: where a trainer's module is looked for.
    """

    arm: str
    swept: Mapping[str, Scalar]
    settings: CellSettings
    folder: Path

    @cached_property
    def id(self) -> str:
        """Digest of what is run: two cells that would run alike have the same one.

        Data count by their bytes, not by where they lie. What is made of a study's rows
        afterwards, the final merge and the forecast, does not count; neither does the code
        of a user's trainer.
        """
        document = self.settings.plain()
        del document["time"]
        for free in ("name", "final_merge", "workers", "tune"):
            del document["experiment"][free]
        document["task"]["data"] = _content(self.settings.task.data)
        text = json.dumps({"format": FORMAT, **document}, sort_keys=True, ensure_ascii=False)
        return digest_of(text.encode())[:ID_DIGITS]

    @property
    def line(self) -> str:
        """Arm and swept values without the seed: what figures are averaged for."""
        values = [f"{_short(key)} {value}" for key, value in self.swept.items() if key != SEEDS]
        return (
            ", ".join([self.arm, *values] if self.arm else values) or self.settings.topology.graph
        )

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"cell {self.id} ({self.line}, seed {self.settings.experiment.seed})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """All cells, in the order in which they run and are shown.

    Attributes:
        name: whose results these are.
        keys: the swept keys of all arms, without the seeds.
        cells: arm after arm, seeds innermost.
    """

    name: str
    keys: Sequence[str]
    cells: Sequence[Cell]

    @property
    def is_timed(self) -> bool:
        """Some cell has a section `[time]`."""
        return any(cell.settings.time is not None for cell in self.cells)

    @property
    def is_distributed(self) -> bool:
        """It runs on ranks; then all of its cells do."""
        return any(cell.settings.experiment.engine == "distributed" for cell in self.cells)

    @property
    def studies(self) -> list[Cell]:
        """One cell for each id: what there is to run."""
        first: dict[str, Cell] = {}
        for cell in self.cells:
            first.setdefault(cell.id, cell)
        return list(first.values())

    @property
    def lines(self) -> dict[str, list[Cell]]:
        """The cells by line, in order."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.line, []).append(cell)
        return found


def _short(key: str) -> str:
    """`task.nodes` as `nodes`; `learning.options.gamma` as `gamma`."""
    return key.rpartition(".")[2]


def _content(data: str) -> str:
    """The name of built-in data, or a digest of a file's bytes."""
    if data == DIGITS:
        return data
    try:
        found = Path(data).stat()
        return _digest(data, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise BadData(f"{data}: cannot be read: {error.strerror}; expected an .npz") from error


@lru_cache(maxsize=64)
def _digest(data: str, size: int, changed_ns: int) -> str:
    """Size and time are looked at by the cache alone: a file is read once for all cells."""
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
