"""A classification task as four arrays, from any .npz file.

The file holds `x_train, y_train, x_test, y_test`: examples first, images as
(n, height, width) or (n, height, width, channels), vectors as (n, features);
labels whole numbers from 0.

>>> task = load_npz("fashion_mnist.npz")  # doctest: +SKIP
>>> task.classes  # doctest: +SKIP
10
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weft.simulations.errors import BadData

Inputs: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]

MOST_CLASSES = 1_000_000

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayTask:
    """Examples and labels; the test part is shared by all nodes.

    Inputs are float32 (n, ...), standardised by one mean and one deviation over
    all training examples, two numbers that every node of a study knows; labels
    are int64 (n,) in 0..classes-1.
    """

    x_train: Inputs
    y_train: Labels
    x_test: Inputs
    y_test: Labels
    classes: int


def load_npz(path: str | Path) -> ArrayTask:
    """Read and check a task.

    Raises:
        BadData: no such file, not an .npz, an array missing or of a wrong
            shape or type, labels without examples, values that are not finite.
    """
    return make_task(_read(Path(path)), where=str(path))


def save_npz(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write the arrays of a task, for `load_npz`."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def make_task(arrays: Mapping[str, NDArray[np.generic]], *, where: str = "task") -> ArrayTask:
    """Check four arrays and bring them to the dtypes of a task; nothing is mutated.

    Args:
        arrays: the four, by name.
        where: stands in front of what is wrong.

    Raises:
        BadData: as `load_npz`.
    """
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise BadData(f"{where}: no {', '.join(missing)}; a task holds {', '.join(KEYS)}")
    x_train, x_test = (_inputs(arrays[key], f"{where}: {key}") for key in ("x_train", "x_test"))
    y_train, y_test = (_labels(arrays[key], f"{where}: {key}") for key in ("y_train", "y_test"))
    _check_sizes(where, x_train, y_train, x_test, y_test)
    classes, highest = int(y_train.max()) + 1, int(y_test.max())
    if highest >= classes:
        raise BadData(f"{where}: y_test has class {highest}, y_train only 0..{classes - 1}")
    mean, deviation = x_train.mean(dtype=np.float64), x_train.std(dtype=np.float64)
    scale = np.float32(1 / deviation if deviation > 0 else 1)
    return ArrayTask(
        x_train=(x_train - np.float32(mean)) * scale,
        y_train=y_train,
        x_test=(x_test - np.float32(mean)) * scale,
        y_test=y_test,
        classes=classes,
    )


def limited(task: ArrayTask, limit: int, test_limit: int = 0) -> ArrayTask:
    """The task with its first so many training and test examples; all where a limit is 0."""
    if not 0 < limit < len(task.x_train) and not 0 < test_limit < len(task.x_test):
        return task
    train, test = limit or len(task.x_train), test_limit or len(task.x_test)
    return ArrayTask(
        x_train=task.x_train[:train],
        y_train=task.y_train[:train],
        x_test=task.x_test[:test],
        y_test=task.y_test[:test],
        classes=task.classes,
    )


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise BadData(f"{path}: no such file; expected an .npz with {', '.join(KEYS)}")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadData(f"{path}: not a readable .npz: one array without a name")
            return {key: archive[key] for key in archive.files if key in KEYS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadData(f"{path}: not a readable .npz of plain arrays ({error})") from error


def _check_sizes(
    where: str, x_train: Inputs, y_train: Labels, x_test: Inputs, y_test: Labels
) -> None:
    if x_train.shape[1:] != x_test.shape[1:]:
        raise BadData(
            f"{where}: x_train has examples of shape {x_train.shape[1:]}, "
            f"x_test of {x_test.shape[1:]}; expected the same"
        )
    for part, inputs, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(inputs) != len(labels):
            raise BadData(
                f"{where}: {len(inputs)} examples in x_{part}, {len(labels)} labels in y_{part}"
            )


def _labels(labels: NDArray[np.generic], where: str) -> Labels:
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "iu":
        raise BadData(
            f"{where}: {labels.dtype} of shape {labels.shape}; "
            "expected whole numbers, one an example"
        )
    least, most = int(labels.min()), int(labels.max())
    if least < 0:
        raise BadData(f"{where}: class {least}; classes start at 0")
    if most >= MOST_CLASSES:
        raise BadData(
            f"{where}: class {most}; expected below {MOST_CLASSES}: number classes from 0 on"
        )
    return labels.astype(np.int64)


def _inputs(inputs: NDArray[np.generic], where: str) -> Inputs:
    if inputs.ndim not in (2, 3, 4) or inputs.dtype.kind not in "iuf":
        raise BadData(
            f"{where}: {inputs.dtype} of shape {inputs.shape}; expected numbers of shape "
            "(n, features), (n, height, width) or (n, height, width, channels)"
        )
    if 0 in inputs.shape[1:]:
        raise BadData(f"{where}: examples of shape {inputs.shape[1:]}; expected some numbers each")
    with np.errstate(over="ignore"):
        numbers = inputs.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise BadData(f"{where}: holds NaN or infinity, as float32")
    return numbers
