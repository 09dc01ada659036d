"""Scores that were paid for once: a file of lines, so that a run goes on where it was cut."""

import json
from collections.abc import Sequence
from pathlib import Path

Matrix = list[list[float | None]]
"""Accuracies: a row a contribution, a column a task."""


class Memory:
    """Matrices by what they are of; in a file too if one is given.

    A key does not say by which code a row was merged: after a change of a method, its
    lines must be removed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._found: dict[str, Matrix] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf8").splitlines():
                key, matrix = json.loads(line)
                self._found[key] = matrix

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Matrix:
        return self._found[key]

    def __setitem__(self, key: str, matrix: Sequence[Sequence[float | None]]) -> None:
        self._found[key] = [list(line) for line in matrix]
        if self._path is not None:
            with self._path.open("a", encoding="utf8") as file:
                file.write(json.dumps([key, self._found[key]]) + "\n")
