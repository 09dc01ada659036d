"""Forgetting by negation, Ilharco et al. 2023, arXiv:2212.04089: theta_0 - tau."""

from torch import Tensor

Model = dict[str, Tensor]


def negate(base: Model, model: Model) -> Model:
    return {name: base[name] - (model[name] - base[name]) for name in base}
