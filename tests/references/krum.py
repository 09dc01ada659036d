"""Krum and Multi-Krum on whole models, from arXiv:1703.02757 section 4: the score of a
vector is the sum of its squared distances to the n - f - 2 nearest others."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    hostile: int,
    kept: int = 1,
) -> dict[str, Tensor]:
    """The mean of the `kept` models of smallest score; one is Krum."""
    scores = []
    for one in models:
        distances = sorted(
            sum(float((one[name] - two[name]).square().sum()) for name in base)
            for two in models
            if two is not one
        )
        scores.append(sum(distances[: len(models) - hostile - 2]))
    order = sorted(range(len(models)), key=lambda index: scores[index])[:kept]
    return {name: torch.stack([models[i][name] for i in order]).mean(0) for name in base}
