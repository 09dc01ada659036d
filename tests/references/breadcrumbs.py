"""Model Breadcrumbs, Davari and Belilovsky 2023, arXiv:2312.06795, with mergekit's names:

of each tensor's elements, sorted by magnitude, the share gamma at the top and what is
left at the bottom after keeping the share density are set to zero.
"""

import torch
from torch import Tensor

Model = dict[str, Tensor]


def breadcrumbs(base: Model, model: Model, *, density: float, gamma: float, extent: str) -> Model:
    deltas = {name: (model[name] - base[name]).flatten() for name in base}
    if extent == "model":
        mask = _middle(torch.cat(list(deltas.values())), density, gamma)
        masks = {}
        for name, delta in deltas.items():
            masks[name], mask = mask[: len(delta)], mask[len(delta) :]
    else:
        masks = {name: _middle(delta, density, gamma) for name, delta in deltas.items()}
    return {
        name: base[name] + (delta * masks[name]).reshape(base[name].shape)
        for name, delta in deltas.items()
    }


def _middle(flat: Tensor, density: float, gamma: float) -> Tensor:
    outliers = int(gamma * len(flat))
    kept = max(1, int(density * len(flat)))
    falling = flat.abs().argsort(descending=True)
    mask = torch.zeros_like(flat)
    mask[falling[outliers : outliers + kept]] = 1.0
    return mask
