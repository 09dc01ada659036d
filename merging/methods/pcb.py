"""PCB-Merging: parameters compete, within a model and between models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Joint, Need, Scope
from weft.merging.monoids import Shape

_TAIL = 10_000
"""One in so many of the largest and of the smallest magnitudes is clamped."""

_LEAST_SUM = 1e-12
"""A sum of competition scores below this divides as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pcb(Joint):
    """scale * sum_i w_i sign(D_i) c_i u_i / sum_i u_i, tensor by tensor.

    c_i is |D_i|, clamped to between its 0.01 % and its 99.99 % quantile. The score of an
    element is exp(n q^2) tanh(D_i sum_j D_j), where q is c_i brought to [0, 1]: large
    within its own model, and along with the others. Scores below the 1 - ratio quantile
    are raised to it, and all brought to [0, 1], which gives u_i: the elements below the
    quantile are out. A weight is the model's own factor, lambda_i.

    All task vectors of a tensor are held whole.

    Attributes:
        ratio: r, the share of elements that stay in the competition.
        scale: lambda.

    Source: Du et al. 2024, Parameter Competition Balancing for Model Merging,
        arXiv:2410.02396, section 3, and the authors' released code. The paper takes its
        quantiles and ranges over the whole flattened model; here they are those of each
        tensor. Tensors of less than 10,000 elements are not clamped. At least the largest
        score stays in, and where all are the same, all do if positive: the released code
        divides zero by zero there.
    """

    cpu_only: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    ratio: float = option(0.1, "r, share of elements that compete", above=0, most=1)
    scale: float = option(1.2, "lambda, the factor of the result")

    def scope(self, name: str, shape: Shape) -> Scope:
        """Whole: quantiles and ranges are the tensor's."""
        return Scope.MATRIX

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        """The mean by scores."""
        require_finite(name, blocks, facts)
        if blocks[0].numel() == 0:
            return torch.zeros_like(blocks[0])
        agreed = torch.zeros_like(blocks[0])
        for block in blocks:
            agreed += block
        total, scores = torch.zeros_like(agreed), torch.zeros_like(agreed)
        for block, fact in zip(blocks, facts, strict=True):
            clamped = _clamped(block.abs())
            score = self._score(block, clamped, agreed, len(blocks))
            scores += score
            total += clamped.mul_(block.sign()).mul_(score).mul_(fact.weight)
        return total.div_(scores.clamp_(min=_LEAST_SUM)).mul_(self.scale)

    def _score(self, block: Tensor, clamped: Tensor, agreed: Tensor, models: int) -> Tensor:
        """u_i, in [0, 1]."""
        low, high = clamped.aminmax()
        inner = (clamped - low).div_((high - low) or 1.0).square_()
        # exp(n (q^2 - 1)): the factor exp(-n) falls out below, and nothing overflows.
        score = inner.sub_(1.0).mul_(models).exp_().mul_((block * agreed).tanh_())
        largest = score.max()
        least = _ranked(score, min(int(score.numel() * (1 - self.ratio)), score.numel() - 2))
        if not largest > least:
            return torch.full_like(score, float(largest > 0))
        return score.clamp_(min=least).sub_(least).div_(largest - least)


def _clamped(magnitudes: Tensor) -> Tensor:
    """Without the last ten-thousandth on either side; in place."""
    elements = magnitudes.numel()
    if elements < _TAIL:
        return magnitudes
    low, high = elements // _TAIL, elements - 1 + (-elements // _TAIL)
    return magnitudes.clamp_(_ranked(magnitudes, low), _ranked(magnitudes, high))


def _ranked(values: Tensor, rank: int) -> float:
    """The value of a rank, from zero, the smallest; the smallest for ranks below that."""
    rank = max(rank, 0)
    return float(np.partition(values.numpy().reshape(-1), rank)[rank])
