"""A classification task as four arrays, from any .npz file.

The file holds `x_train, y_train, x_test, y_test`: examples first, images as
(n, height, width) or (n, height, width, channels), vectors as (n, features);
labels whole numbers from 0.

>>> task = load_npz("fashion_mnist.npz")  # doctest: +SKIP
>>> task.classes  # doctest: +SKIP
10
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weft.simulations.errors import BadData

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayTask:
    """Examples and labels; the test part is shared by all nodes.

    Inputs are float32 (n, ...), standardised by one mean and one deviation over
    all training examples, two numbers that every node of a study knows; labels
    are int64 (n,) in 0..classes-1.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    classes: int


def load_npz(path: str | Path) -> ArrayTask:
    """Read and check a task.

    Raises:
        BadData: no such file, not an .npz, an array missing or of a wrong
            shape or type, labels without examples, values that are not finite.
    """
    arrays = _read(Path(path))
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise BadData(f"{path}: no {', '.join(missing)}; a task holds {', '.join(KEYS)}")
    return make_task(where=str(path), **{key: arrays[key] for key in KEYS})


def make_task(
    *,
    x_train: NDArray[np.generic],
    y_train: NDArray[np.generic],
    x_test: NDArray[np.generic],
    y_test: NDArray[np.generic],
    where: str = "task",
) -> ArrayTask:
    """Check four arrays and bring them to the dtypes of a task; nothing is mutated.

    Raises:
        BadData: as `load_npz`, with `where` in front.
    """
    if x_train.shape[1:] != x_test.shape[1:]:
        raise BadData(
            f"{where}: x_train has examples of shape {x_train.shape[1:]}, "
            f"x_test of {x_test.shape[1:]}; expected the same"
        )
    labels = {"y_train": _labels(y_train, f"{where}: y_train")}
    labels["y_test"] = _labels(y_test, f"{where}: y_test")
    train, test = _inputs(x_train, f"{where}: x_train"), _inputs(x_test, f"{where}: x_test")
    mean, deviation = train.mean(dtype=np.float64), train.std(dtype=np.float64)
    scale = np.float32(1 / deviation if deviation > 0 else 1)
    inputs = {"x_train": (train - np.float32(mean)) * scale}
    inputs["x_test"] = (test - np.float32(mean)) * scale
    for part in ("train", "test"):
        examples, known = len(inputs[f"x_{part}"]), len(labels[f"y_{part}"])
        if examples != known:
            raise BadData(f"{where}: {examples} examples in x_{part}, {known} labels in y_{part}")
    classes = int(labels["y_train"].max()) + 1
    if int(labels["y_test"].max()) >= classes:
        raise BadData(
            f"{where}: y_test has class {int(labels['y_test'].max())}, y_train only 0..{classes - 1}"
        )
    return ArrayTask(**inputs, **labels, classes=classes)


def limited(task: ArrayTask, limit: int) -> ArrayTask:
    """The task with its first `limit` training examples; all of them where limit is 0."""
    if limit <= 0 or limit >= len(task.x_train):
        return task
    return ArrayTask(
        x_train=task.x_train[:limit],
        y_train=task.y_train[:limit],
        x_test=task.x_test,
        y_test=task.y_test,
        classes=task.classes,
    )


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise BadData(f"{path}: no such file; expected an .npz with {', '.join(KEYS)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in KEYS}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BadData(f"{path}: not a readable .npz of plain arrays ({error})") from error


def _labels(labels: NDArray[np.generic], where: str) -> NDArray[np.int64]:
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "iu":
        raise BadData(
            f"{where}: {labels.dtype} of shape {labels.shape}; expected whole numbers, one an example"
        )
    if int(labels.min()) < 0:
        raise BadData(f"{where}: class {int(labels.min())}; classes start at 0")
    return labels.astype(np.int64)


def _inputs(inputs: NDArray[np.generic], where: str) -> NDArray[np.float32]:
    if inputs.ndim not in (2, 3, 4) or inputs.dtype.kind not in "iuf":
        raise BadData(
            f"{where}: {inputs.dtype} of shape {inputs.shape}; expected numbers of shape "
            "(n, features), (n, height, width) or (n, height, width, channels)"
        )
    numbers = inputs.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise BadData(f"{where}: holds NaN or infinity")
    return numbers
