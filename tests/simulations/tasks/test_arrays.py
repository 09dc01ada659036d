"""What a task's file must hold, and what is said about one that does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weft.simulations.errors import BadData
from weft.simulations.tasks.arrays import limited, load_npz, make_task

Arrays = dict[str, NDArray[Any]]


def good() -> Arrays:
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, size=(20, 4, 4), dtype=np.uint8),
        "y_train": np.arange(20) % 3,
        "x_test": generator.integers(0, 256, size=(6, 4, 4), dtype=np.uint8),
        "y_test": (np.arange(6) % 3).astype(np.uint8),
    }


def saved(folder: Path, arrays: Arrays) -> Path:
    path = folder / "task.npz"
    np.savez(path, allow_pickle=True, **arrays)
    return path


def test_reads_and_standardises(tmp_path: Path) -> None:
    task = load_npz(saved(tmp_path, good()))
    assert task.classes == 3
    assert task.x_train.dtype == np.float32
    assert task.y_test.dtype == np.int64
    assert abs(float(task.x_train.mean())) < 1e-6
    assert float(task.x_train.std()) == pytest.approx(1, abs=1e-6)


def test_test_part_takes_the_constants_of_the_training_part() -> None:
    arrays = {"x_train": np.array([[0.0, 4.0]]), "x_test": np.array([[2.0, 6.0]])}
    task = make_task(arrays | {"y_train": np.array([0]), "y_test": np.array([0])})
    assert task.x_train.tolist() == [[-1.0, 1.0]]  # mean 2, deviation 2
    assert task.x_test.tolist() == [[0.0, 2.0]]


def test_constant_inputs_stay_finite() -> None:
    arrays = {"x_train": np.full((2, 3), 7), "x_test": np.full((1, 3), 7)}
    task = make_task(arrays | {"y_train": np.array([0, 1]), "y_test": np.array([1])})
    assert not task.x_train.any()


def test_limit_takes_the_first_training_examples() -> None:
    task = make_task(good())
    assert len(limited(task, 5).y_train) == 5
    assert np.array_equal(limited(task, 5).x_train, task.x_train[:5])
    assert len(limited(task, 5).y_test) == 6
    assert limited(task, 0) is task
    assert limited(task, 999) is task


def test_a_limit_of_its_own_takes_the_first_test_examples() -> None:
    task = make_task(good())
    assert np.array_equal(limited(task, 0, 4).x_test, task.x_test[:4])
    assert np.array_equal(limited(task, 5, 4).y_test, task.y_test[:4])
    assert len(limited(task, 0, 4).y_train) == 20
    assert limited(task, 0, 999) is task


WRONG: list[tuple[str, Arrays, str]] = [
    ("shape", {"x_test": np.zeros((6, 5, 4))}, "expected the same"),
    ("labels_float", {"y_train": np.zeros(20)}, "expected whole numbers"),
    ("labels_2d", {"y_train": np.zeros((20, 1), dtype=int)}, "expected whole numbers"),
    ("labels_negative", {"y_train": np.arange(20) - 1}, "classes start at 0"),
    ("labels_fewer", {"y_train": np.zeros(19, dtype=int)}, "20 examples in x_train, 19 labels"),
    ("labels_unknown", {"y_test": np.full(6, 7)}, "class 7"),
    ("inputs_1d", {"x_train": np.zeros(20), "x_test": np.zeros(6)}, "expected numbers of shape"),
    ("inputs_text", {"x_train": np.full((20, 4, 4), "a")}, "expected numbers of shape"),
    ("inputs_nan", {"x_train": np.full((20, 4, 4), np.nan)}, "NaN or infinity"),
    ("inputs_beyond", {"x_train": np.full((20, 4, 4), 1e300)}, "NaN or infinity, as float32"),
    ("inputs_none", {"x_train": np.zeros((20, 0)), "x_test": np.zeros((6, 0))}, "some numbers"),
    ("labels_no_count", {"y_train": np.full(20, 10**12)}, "class 1000000000000; expected below"),
    ("empty", {"y_train": np.zeros(0, dtype=int)}, "expected whole numbers"),
]


@pytest.mark.parametrize(("change", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_arrays_are_named(tmp_path: Path, change: Arrays, said: str) -> None:
    path = saved(tmp_path, good() | change)
    with pytest.raises(BadData, match=said) as caught:
        load_npz(path)
    assert str(path) in str(caught.value)


def test_missing_arrays_are_listed(tmp_path: Path) -> None:
    arrays = good()
    del arrays["y_test"], arrays["x_test"]
    with pytest.raises(BadData, match=r"no x_test, y_test; a task holds"):
        load_npz(saved(tmp_path, arrays))


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such file"):
        load_npz(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(BadData, match=r"not a readable \.npz"):
        load_npz(text)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(saved(tmp_path, good()).read_bytes()[:200])
    with pytest.raises(BadData, match=r"not a readable \.npz"):
        load_npz(cut)
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BadData, match=r"not a readable \.npz"):
        load_npz(single)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, good() | {"y_test": np.array([object()] * 6, dtype=object)})
    with pytest.raises(BadData, match=r"not a readable \.npz of plain arrays"):
        load_npz(path)
