"""The coordinate-wise trimmed mean, from arXiv:1803.01498 definition 2, one number at a
time in plain Python."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], *, trim: int
) -> dict[str, Tensor]:
    """The mean of each parameter without its `trim` largest and smallest values."""
    merged = {}
    for name, start in base.items():
        columns = zip(*(model[name].reshape(-1).tolist() for model in models), strict=True)
        kept = [sorted(column)[trim : len(models) - trim] for column in columns]
        means = [sum(values) / len(values) for values in kept]
        merged[name] = torch.tensor(means, dtype=torch.float64).reshape(start.shape)
    return merged
