"""Metrics-weighted averaging: arXiv:2504.18580; the three forms are proposals of ours."""

import math
from collections.abc import Sequence

from torch import Tensor

State = dict[str, Tensor]


def metric_weighted(
    base: State,
    models: Sequence[State],
    *,
    metrics: Sequence[float],
    form: str = "power",
    penalty: float = 1.0,
) -> State:
    if form == "exponential":
        least = min(metrics)
        shares = [math.exp(-penalty * (metric - least)) for metric in metrics]
    else:
        shares = [metric ** (penalty if form == "power" else -penalty) for metric in metrics]
    total = math.fsum(shares)
    return {
        name: sum(s / total * model[name].double() for s, model in zip(shares, models, strict=True))
        + 0 * base[name]
        for name in base
    }
