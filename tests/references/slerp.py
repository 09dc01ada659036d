"""SLERP in numpy, from Shoemake 1985, as arXiv:1609.04468 section 2.1 writes it, on task
vectors tensor by tensor, with a straight line for near parallels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], *, t: float
) -> dict[str, Tensor]:
    """Between the first model and the second."""
    merged = {}
    for name, start in base.items():
        one, two = (np.atleast_1d((model[name] - start).numpy()) for model in models)
        cosine = np.vdot(one / np.linalg.norm(one), two / np.linalg.norm(two))
        if abs(cosine) > 0.9995:
            between = (1 - t) * one + t * two
        else:
            angle = math.acos(cosine)
            between = math.sin((1 - t) * angle) * one + math.sin(t * angle) * two
            between = between / math.sin(angle)
        merged[name] = start + torch.from_numpy(between).reshape(start.shape)
    return merged
