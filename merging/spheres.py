"""Task vectors as directions and lengths, by way of their inner products alone.

>>> import torch
>>> norms, angles = directions(torch.tensor([[25.0, 0.0], [0.0, 4.0]], dtype=torch.float64))
>>> norms.tolist(), round(resultant(angles, np.array([0.6, 0.4])) ** 2, 12)
([5.0, 2.0], 0.52)
"""

import math
from typing import Final

import numpy as np
from torch import Tensor

from weft.merging.deltas import cosines
from weft.merging.distances import Floats

OPPOSED: Final = 1e-6
"""A mean of unit vectors shorter than this points nowhere: they cancel out, and what is
left is mostly the rounding of their inner products."""


def directions(gram: Tensor) -> tuple[Floats, Floats]:
    """Norms, (n,), and cosines, (n, n); those of a zero vector are zero."""
    norms: Floats = gram.diagonal().clamp(min=0).sqrt().numpy()
    return norms, cosines(gram).numpy()


def resultant(angles: Floats, weights: Floats) -> float:
    """|sum_i w_i u_i| for unit vectors u_i, from their cosines, (n, n)."""
    square = float(weights @ angles @ weights)
    return math.sqrt(max(square, 0.0))


def on_lengths(point: Floats, norms: Floats, length: float) -> list[float]:
    """The c_i with sum_i c_i D_i = length * sum_i p_i u_i; zero for a zero vector."""
    found = np.zeros_like(point)
    np.divide(length * point, norms, out=found, where=norms > 0)
    coefficients: list[float] = found.tolist()
    return coefficients
