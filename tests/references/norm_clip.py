"""Norm thresholding, Sun et al. 2019, arXiv:1911.07963: delta / max(1, |delta|_2 / M)."""

import torch
from torch import Tensor

Model = dict[str, Tensor]


def norm_clip(base: Model, model: Model, *, longest: float) -> Model:
    norm = torch.cat([(model[name] - base[name]).flatten() for name in base]).norm()
    divisor = max(1.0, float(norm) / longest)
    return {name: base[name] + (model[name] - base[name]) / divisor for name in base}
