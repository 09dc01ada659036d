"""The trim step of TIES, Yadav et al. 2023, arXiv:2306.01708, section 4: keep the top k %

of a task vector by magnitude and set the rest to zero; over the whole model, or tensor
by tensor as in mergekit.
"""

import torch
from torch import Tensor

Model = dict[str, Tensor]


def trim(base: Model, model: Model, *, density: float, extent: str) -> Model:
    deltas = {name: model[name] - base[name] for name in base}
    everything = torch.cat([delta.flatten() for delta in deltas.values()])
    result = {}
    for name, delta in deltas.items():
        pool = everything if extent == "model" else delta.flatten()
        count = max(1, int(density * len(pool)))
        threshold = pool.abs().topk(count).values.min()
        result[name] = base[name] + delta * (delta.abs() >= threshold)
    return result
