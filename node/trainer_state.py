"""A trainer's state on disk: written durably, read without running its code."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from weft.checkpoints.disk import DurableFile
from weft.errors import TrainingFailed
from weft.node.errors import StateCorrupt
from weft.node.training_messages import one_line

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size)


def save_state(state: object, path: Path, *, where: str) -> None:
    """Write a trainer's state in one durable step.

    Args:
        state: a dict of tensors and plain values, in dicts, lists and tuples.
        path: replaced if it exists.
        where: begins the message of an error.

    Raises:
        TrainingFailed: it holds something that could not be read back safely;
            names its place and type.
        DiskFull: no room.
    """
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise TrainingFailed(f"{where} gave a {kind}, expected a dict")
    for place, value in _unsafe(state, ""):
        raise TrainingFailed(
            f"{where} holds a {type(value).__name__} at {place}; only tensors, numbers, strings, "
            "None, lists, tuples and dicts can be read back: convert it"
        )
    with DurableFile(path) as file:
        stream = _Stream(file)
        try:
            torch.save(state, cast("IO[bytes]", stream))
        except RuntimeError:
            # torch trips over its own end of file and hides what really happened.
            if stream.failure is not None:
                raise stream.failure from None
            raise


def load_state(path: Path) -> dict[str, object]:
    """Read what `save_state` wrote, onto the CPU, with `weights_only=True`.

    Raises:
        StateCorrupt: it is not such a file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's reader raise anything
        raise StateCorrupt(
            f"trainer state {path} cannot be read ({one_line(error)[:120]}); "
            "restore it, or start the node afresh"
        ) from error
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise StateCorrupt(f"trainer state {path} is a {kind}, expected a dict")
    return state


class _Stream:
    """Lets torch.save write into a durable file; it only ever writes forwards."""

    def __init__(self, file: DurableFile) -> None:
        self._file, self._offset = file, 0
        self.failure: Exception | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write_at(data, self._offset)
        except Exception as error:
            self.failure = error
            raise
        self._offset += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def _unsafe(value: object, place: str) -> Iterator[tuple[str, object]]:
    # Exact types: a subclass would need its own code to be read back.
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return
    if isinstance(value, Mapping) and type(value).__name__ in {"dict", "OrderedDict"}:
        for key, item in value.items():
            if type(key) not in _PLAIN and type(key) is not tuple:
                yield f"{place}[{key!r}]", key
            yield from _unsafe(item, f"{place}[{key!r}]")
    elif type(value) in {list, tuple, set}:
        for index, item in enumerate(value):  # type: ignore[arg-type]
            yield from _unsafe(item, f"{place}[{index}]")
    else:
        yield place or "its top", value
