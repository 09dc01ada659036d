"""EMR: Huang et al. 2024, EMR-Merging, arXiv:2405.17461, section 3: elect, mask, rescale.

A sum of zero has the negative sign, as in the authors' code. The rescaler is the ratio of
the sums of magnitudes over the whole model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]


def unified(deltas: Sequence[State]) -> State:
    found = {}
    for name in deltas[0]:
        stacked = torch.stack([delta[name].double() for delta in deltas])
        sign = torch.where(stacked.sum(0) > 0, 1.0, -1.0).double()
        agreeing = torch.where(stacked * sign > 0, stacked.abs(), 0.0)
        found[name] = sign * agreeing.max(0).values
    return found


def emr(base: State, models: Sequence[State], *, scale: float = 1.0) -> State:
    deltas = [{name: model[name] - base[name] for name in base} for model in models]
    merged = unified(deltas)
    return {name: base[name] + scale * merged[name] for name in base}


def expert(delta: State, merged: State) -> State:
    """The task vector of one expert as EMR gives it back."""
    masked = {name: merged[name] * (delta[name] * merged[name] > 0) for name in merged}
    own = sum(float(delta[name].abs().sum()) for name in merged)
    left = sum(float(masked[name].abs().sum()) for name in merged)
    return {name: own / left * masked[name] for name in merged}
