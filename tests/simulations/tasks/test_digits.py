"""The digits are the same everywhere."""

import numpy as np

from weft.simulations.tasks.digits import load_digits


def test_sizes_and_split() -> None:
    task = load_digits()
    assert task.x_train.shape == (1257, 8, 8)
    assert task.x_test.shape == (540, 8, 8)
    assert task.classes == 10
    assert np.bincount(task.y_train).min() > 100
    assert task.y_train[:8].tolist() == load_digits().y_train[:8].tolist()


def test_no_test_image_is_trained_on_beyond_the_set_s_own_duplicates() -> None:
    task = load_digits()
    train = {image.tobytes() for image in task.x_train}
    assert sum(image.tobytes() in train for image in task.x_test) == 0
