"""VaRM: Wan et al. 2024, FuseChat, arXiv:2402.16107, the variation ratio merge.

W_(j,m) = E[D_(j,m)^2] / sum_j E[D_(j,m)^2] for each tensor m; weights multiply the energies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]


def varm(base: State, models: Sequence[State], *, weights: Sequence[float] | None = None) -> State:
    weights = [1.0] * len(models) if weights is None else weights
    merged = {}
    for name, start in base.items():
        deltas = [(model[name] - start).double() for model in models]
        energies = torch.tensor([float((d**2).mean()) for d in deltas], dtype=torch.float64)
        shares = energies * torch.tensor(weights, dtype=torch.float64)
        if shares.sum() > 0:
            shares = shares / shares.sum()
        merged[name] = start + sum(s * d for s, d in zip(shares, deltas, strict=True))
    return merged
