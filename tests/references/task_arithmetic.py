"""Task arithmetic, arXiv:2212.04089, section 2: theta_0 + lambda sum_i (theta_i - theta_0)."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def merged(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    scale: float,
) -> dict[str, Tensor]:
    """With a weight for each task vector."""
    result = {name: tensor.double() for name, tensor in base.items()}
    for weight, model in zip(weights, models, strict=True):
        for name in base:
            result[name] = result[name] + scale * weight * (
                model[name].double() - base[name].double()
            )
    return result
