"""The EMA-merge baseline of arXiv:2408.14471: theta <- (1 - a) theta + a theta_new."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def merged(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], rate: float
) -> dict[str, Tensor]:
    """From the base on, one model after the other."""
    result = {name: tensor.double() for name, tensor in base.items()}
    for model in models:
        result = {
            name: (1 - rate) * tensor + rate * model[name].double()
            for name, tensor in result.items()
        }
    return result
