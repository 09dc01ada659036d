"""What is kept of a cell: whole or not at all, so that a killed experiment goes on.

OUT/experiment.json      whose folder this is
OUT/cells/<id>.json      one cell: its settings, its rounds
"""

import errno
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.checkpoints.disk import UNREACHABLE, write_bytes
from weft.checkpoints.errors import BadPath
from weft.simulations.errors import BadExperiment, OtherExperiment
from weft.simulations.study import Accuracies, Moment

MARKER = "experiment.json"
CELLS = "cells"

REFUSALS = UNREACHABLE | {errno.EEXIST}
"""What the system says of a path that another one has to be given for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A cell that was run.

    Attributes:
        cell: its id.
        settings: as a document.
        parameters: of one model.
        moments: one a round.
        diverged: what was said where training left something that is not finite, after
            which no round follows; None where that was not so.
    """

    cell: str
    settings: Mapping[str, Any]
    parameters: int
    moments: Sequence[Moment]
    diverged: str | None = None

    def text(self) -> str:
        """As JSON, byte by byte the same for the same record."""
        document = asdict(self) | {"moments": [_plain(moment) for moment in self.moments]}
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, text: str) -> "Record":
        """From what `text` gave.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        document = json.loads(text)
        moments = [_moment(each) for each in document.pop("moments")]
        return cls(**document, moments=moments)


class ResultsFolder:
    """Where an experiment's results lie; blocks on the disk.

    Args:
        path: the folder; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, name: str) -> None:
        """Make the folder that of an experiment.

        Raises:
            OtherExperiment: it is another one's, or holds files of somebody else.
            BadPath: it cannot be made or read.
        """
        with _reached(self.path):
            self._claim(name)

    def _claim(self, name: str) -> None:
        owner = self._owner()
        if owner not in (None, name):
            raise OtherExperiment(
                f"{self.path}: holds the results of the experiment {owner!r}, not of {name!r}; "
                "give another folder"
            )
        if owner is None:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise OtherExperiment(
                    f"{self.path}: holds files that no experiment wrote; give another folder"
                )
            self.write(MARKER, json.dumps({"name": name}) + "\n")
        (self.path / CELLS).mkdir(exist_ok=True)

    def write(self, name: str, text: str | bytes) -> Path:
        """A file of the folder, whole or not at all."""
        path = self.path / name
        write_bytes(path, text.encode() if isinstance(text, str) else text)
        return path

    def save(self, record: Record) -> None:
        """Keep a cell."""
        self.write(f"{CELLS}/{record.cell}.json", record.text())

    def load(self, cell: str) -> Record | None:
        """A cell that was kept; None where it was not.

        Raises:
            BadExperiment: the file is not what was written.
            BadPath: it cannot be read.
        """
        path = self.path / CELLS / f"{cell}.json"
        try:
            with _reached(path):
                found = Record.read(path.read_text(encoding="utf-8"))
            if found.cell != cell:
                raise ValueError(f"it is the cell {found.cell}")
            return found
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise BadExperiment(
                f"{path}: not a cell as it was written ({error}); remove it to run the cell again"
            ) from error

    def _owner(self) -> str | None:
        path = self.path / MARKER
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["name"])
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise OtherExperiment(f"{self.path}: is a file; give a folder") from None
        except (ValueError, KeyError, TypeError) as error:
            raise OtherExperiment(
                f"{path}: not what an experiment wrote ({error}); give another folder"
            ) from error


@contextmanager
def _reached(path: Path) -> Iterator[None]:
    """Say in our words why a path cannot be reached; what is not there is no mistake.

    Raises:
        BadPath: no right, a disk that is read-only, a folder for a file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise BadPath(f"{error.filename or path}: {error.strerror}; give another folder") from error


def _plain(moment: Moment) -> dict[str, Any]:
    """With null for what JSON has no number for, such as a loss where nothing is trained."""
    document = asdict(moment)
    if moment.accuracies is not None:
        document["accuracies"] = _finite(document["accuracies"])
    return _finite(document)


def _finite(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in document.items()
    }


def _moment(document: dict[str, Any]) -> Moment:
    found = document.pop("accuracies")
    accuracies = None if found is None else Accuracies(**_numbers(found))
    return Moment(**_numbers(document), accuracies=accuracies)


def _numbers(document: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in document.items():
        if not isinstance(value, int | float | None):
            raise TypeError(f"{key} is {value!r}")
    return {key: math.nan if value is None else value for key, value in document.items()}


def cumulative(values: Sequence[float]) -> Iterator[float]:
    """Sums from the first value on."""
    total = 0.0
    for value in values:
        total += value
        yield total
