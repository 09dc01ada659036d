"""The weighted mean, as the uniform soup of arXiv:2203.05482 with weights."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def merged(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """sum_i w_i theta_i / sum_i w_i."""
    total = sum(weights)
    return {
        name: sum(
            (w * model[name].double() for w, model in zip(weights, models, strict=True)),
            start=0 * models[0][name].double(),
        )
        / total
        for name in models[0]
    }
