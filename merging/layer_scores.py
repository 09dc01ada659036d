"""How rich the change of a layer is, from weights alone, and what factor it earns.

Pure functions; the base and a task vector go in, one factor a tensor comes out, to be
handed to a method as `Facts.scale`.

>>> round(effective_rank(torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]))), 9)
3.0
>>> tiers({0: 0.9, 1: 1.4, 2: 1.1}, (0.8, 1.0, 1.2))
{0: 0.8, 2: 1.0, 1: 1.2}
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.merging.facts import Layer


def effective_rank(matrix: Tensor) -> float:
    """exp(-sum_j p_j ln p_j) with p_j = s_j^2 / sum s^2; zero for a matrix of zeros.

    Between one, where one direction holds all energy, and the rank, where all singular
    values are equal.

    Args:
        matrix: (m, n), any float dtype; not modified. Computed in float64 by way of the
            Gram matrix of the smaller side, whose eigenvalues are the s_j^2.
    """
    wide = matrix.to(torch.float64)
    if wide.shape[0] > wide.shape[1]:
        wide = wide.T
    largest = float(wide.abs().max()) if wide.numel() else 0.0
    if largest == 0:
        return 0.0
    wide = wide / largest  # small numbers must not vanish when squared
    energies = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0)
    shares = energies / energies.sum()
    return math.exp(float(torch.special.entr(shares).sum()))


def rank_contrast(base: Tensor, delta: Tensor) -> float:
    """erank(base) / erank(delta): high where the change is more structured than the base.

    Args:
        base: (m, n), the base's linear weight.
        delta: (m, n), a task vector's.

    Returns:
        Zero where nothing moved.
    """
    moved = effective_rank(delta)
    return effective_rank(base) / moved if moved else 0.0


def tiers(scores: Mapping[int, float], factors: Sequence[float]) -> dict[int, float]:
    """A factor for each layer: the lowest scores get the first, the highest the last.

    The layers are ranked and dealt out evenly, alike from both ends, so of three
    factors a layer that is alone gets the second; of equal scores the shallower layer
    is the lower. Ordered by rank.

    Args:
        scores: by index of the layer.
        factors: one a tier, at least one.
    """
    ranked = sorted(scores, key=lambda index: (scores[index], index))
    return {
        index: factors[(2 * place + 1) * len(factors) // (2 * len(ranked))]
        for place, index in enumerate(ranked)
    }


def layer_scales(
    contrasts: Mapping[str, float], layers: Mapping[str, Layer], factors: Sequence[float]
) -> dict[str, float]:
    """A factor for each tensor, found from the contrasts of the linear weights.

    A layer's score is the mean contrast of its linear weights that moved; its factor
    goes for all its tensors. What is in no layer, or in one where nothing moved, gets
    one.

    Args:
        contrasts: `rank_contrast` of each linear weight, by name.
        layers: of all tensors, by name (`weft.merging.layers.layers`).
        factors: as in `tiers`.
    """
    by_layer: dict[int, list[float]] = defaultdict(list)
    for name in sorted(contrasts):
        index = layers[name].index
        if index is not None and contrasts[name] > 0:
            by_layer[index].append(contrasts[name])
    means = {index: math.fsum(found) / len(found) for index, found in by_layer.items()}
    found = tiers(means, factors)
    return {
        name: 1.0 if layer.index is None else found.get(layer.index, 1.0)
        for name, layer in layers.items()
    }
