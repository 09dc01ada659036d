"""What the files of inputs are, as far as can be told unread, and whether they still are.

That is names, sizes and times of change. A merge reads each tensor when its turn comes,
hours after the first perhaps. A file that another program writes meanwhile gives a model
that nobody has: half of it before, half after. So the files are looked at before they are
opened, and once more before anything that was made of them appears.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from weft.checkpoints.errors import ChangedInput
from weft.checkpoints.header import Json
from weft.checkpoints.provenance import difference
from weft.checkpoints.reader import SUFFIX

Stamp: TypeAlias = tuple[int, int]
"""Size in bytes, and when it was changed, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Identities:
    """What was found at some paths, at one moment.

    Attributes:
        found: the files of each path with their stamps; none where nothing can be seen,
            which whoever opens the path refuses in words.
    """

    found: Mapping[Path, Mapping[Path, Stamp]]

    @classmethod
    def at(cls, paths: Iterable[Path]) -> Self:
        """Look at the files of models."""
        return cls({path: _stamps(path) for path in paths})

    def of(self, path: Path) -> Json:
        """Name, sizes and times of the files of a model, for its record."""
        return {
            "name": path.name,
            "files": [
                {"name": file.name, "bytes": size, "modified_ns": modified}
                for file, (size, modified) in self.found[path].items()
            ],
        }

    def require_unchanged(self) -> None:
        """Look again.

        Raises:
            ChangedInput: a file was written, added or removed since; names the first.
        """
        for path, before in self.found.items():
            now = _stamps(path)
            other = [file for file in sorted({*before, *now}) if before.get(file) != now.get(file)]
            if other:
                raise ChangedInput(
                    f"{other[0]}: was changed while it was merged; what was read of it is part"
                    " old, part new, and nothing is kept: begin again once nobody writes there"
                )


def apart(there: Json, now: Json, paths: Sequence[Sequence[Path]]) -> str:
    """What sets two records of an output apart, in words: the inputs first.

    Args:
        there: a record that was read; anybody may have written it.
        now: the one at hand.
        paths: of its inputs, what each reads.
    """
    was, are = _inputs(there), _inputs(now)
    return _other_inputs(was, are, paths) or difference(there, now)


def _inputs(document: Json) -> Json:
    plan = document.get("plan") if isinstance(document, dict) else None
    return plan.get("inputs") if isinstance(plan, dict) else None


def _other_inputs(there: Json, now: Json, paths: Sequence[Sequence[Path]]) -> str:
    """Empty where nothing does that has words here."""
    if not isinstance(there, list) or not isinstance(now, list) or there == now:
        return ""
    try:
        was, are = [_names(item) for item in there], [_names(item) for item in now]
    except (KeyError, TypeError):
        return ""
    if was != are:
        order = "in another order" if sorted(was) == sorted(are) else "other ones"
        return f"the models are {order}: {', '.join(was)} there and {', '.join(are)} now"
    pairs = zip(there, now, paths, strict=True)
    return next((_changed(*each) for each in pairs if each[0] != each[1]), "")


def _names(item: Any) -> str:
    return " and ".join(str(read["name"]) for read in item["reads"])


def _changed(there: Any, now: Any, paths: Sequence[Path]) -> str:
    """The first file of an input that is another one."""
    for was, read, path in zip(there["reads"], now["reads"], paths, strict=True):
        for file in [*read["files"], *was["files"]]:
            if file not in was["files"] or file not in read["files"]:
                whole = path if path.name == file["name"] else path / str(file["name"])
                return f"{whole} has changed since"
    return ""


def files_of(path: Path) -> list[Path]:
    """The files of a model: those of its folder, or the one that it is."""
    if path.name.endswith(f"{SUFFIX}.index.json"):
        path = path.parent
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [file for file in files if file.is_file()]
    except OSError:  # whoever opens it says why
        return []


def _stamps(path: Path) -> dict[Path, Stamp]:
    try:
        return {
            file: (seen.st_size, seen.st_mtime_ns)
            for file in files_of(path)
            for seen in [file.stat()]
        }
    except OSError:
        return {}
