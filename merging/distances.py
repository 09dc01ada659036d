"""Distances between task vectors, and to points between them, from inner products.

Products of numbers of size |D|^2 are subtracted, so distances below about 1e-8 |D|
drown in rounding.

>>> squared_distances(np.array([[25.0, 0.0], [0.0, 144.0]])).tolist()
[[0.0, 169.0], [169.0, 0.0]]
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def squared_distances(gram: Floats) -> Floats:
    """|D_i - D_j|^2.

    Args:
        gram: (n, n); not modified.

    Returns:
        (n, n), symmetric where gram is; zero on the diagonal, never negative.
    """
    squares = gram.diagonal()
    return np.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0)


def distances_from(gram: Floats, point: Floats) -> Floats:
    """|D_i - sum_j p_j D_j|.

    Args:
        gram: (n, n); not modified.
        point: (n,), the p_j.

    Returns:
        (n,), never negative.
    """
    products = gram @ point
    squares = gram.diagonal() - 2.0 * products + point @ products
    return np.sqrt(np.maximum(squares, 0.0))
