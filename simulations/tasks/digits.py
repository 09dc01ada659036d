"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, ten classes.

They come with the library, so that a demo needs no download. Three tenths
of them, drawn once with a fixed seed, are the test set.
"""

import numpy as np
from numpy.typing import NDArray

from weft.simulations.errors import MissingExtra
from weft.simulations.tasks.arrays import ArrayTask, make_task

TEST_EXAMPLES = 540
SPLIT_SEED = 20_260_101


def digits_arrays() -> dict[str, NDArray[np.generic]]:
    """The four arrays of the task: 1,257 digits to train on, 540 to test with.

    The same on every machine.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_from_library
    except ImportError as error:
        raise MissingExtra(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'weft[demo]', or give data of your own (an .npz file)"
        ) from error
    bunch = load_from_library()
    images = (bunch.images / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    test, train = order[:TEST_EXAMPLES], order[TEST_EXAMPLES:]
    return {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }


def load_digits() -> ArrayTask:
    """The digits as a task; raises as `digits_arrays`."""
    return make_task(digits_arrays(), where="digits")
