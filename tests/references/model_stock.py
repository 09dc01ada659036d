"""Model Stock in numpy, from arXiv:2403.19522: w = t w_avg + (1 - t) w_0 with
t = N cos / (1 + (N - 1) cos), the cosine averaged over pairs. Tensor by tensor."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor


def merge(base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Merged parameters."""
    count = len(models)
    merged = {}
    for name, start in base.items():
        deltas = [(model[name] - start).numpy().reshape(-1) for model in models]
        cosines = [
            one @ two / np.linalg.norm(one) / np.linalg.norm(two)
            for one, two in combinations(deltas, 2)
        ]
        cosine = max(float(np.mean(cosines)), 0.0)
        t = count * cosine / (1 + (count - 1) * cosine)
        average = torch.stack([model[name] for model in models]).mean(0)
        merged[name] = t * average + (1 - t) * start
    return merged
