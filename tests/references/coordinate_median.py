"""The coordinate-wise median, from arXiv:1803.01498 definition 1, one number at a time."""

from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor


def merge(base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The usual median of each parameter."""
    merged = {}
    for name, start in base.items():
        columns = zip(*(model[name].reshape(-1).tolist() for model in models), strict=True)
        medians = [median(column) for column in columns]
        merged[name] = torch.tensor(medians, dtype=torch.float64).reshape(start.shape)
    return merged
