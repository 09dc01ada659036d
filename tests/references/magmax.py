"""MagMax, arXiv:2407.06322: tau^p = tau_k^p with k = argmax_i |tau_i^p|."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def merged(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], scale: float
) -> dict[str, Tensor]:
    """theta_0 + lambda tau."""
    result = {}
    for name, origin in base.items():
        deltas = torch.stack([model[name].double() - origin.double() for model in models])
        furthest = deltas.abs().argmax(dim=0, keepdim=True)
        result[name] = origin.double() + scale * deltas.gather(0, furthest)[0]
    return result
