"""WUDI in closed form: agree with each contribution on the inputs that it moved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.linear_fold import (
    LinearFold,
    mean_to_one,
    square_of_inputs,
    square_of_smaller,
)
from weft.merging.matrices import tables_option
from weft.merging.method import Totals
from weft.merging.monoids import Field, Shape
from weft.merging.sums import Sum

_CEILING_SLACK = 1e-9
"""A whole number that comes out an ulp too high is not rounded up to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wudi(LinearFold):
    """scale * (S + (R - S C) g(C)) for linear weights: S on its way to the least interference.

    The rows of D_i span the inputs that contribution i was trained on, so
    |(D - D_i) D_i^T|^2 / |D_i|^2 says how far D is from D_i there. With S = sum_i D_i,
    C_i = D_i^T D_i / |D_i|^2, C = sum_i C_i and R = sum_i D_i C_i, the sum over i has its
    minimum where D C = R. On the eigen-direction of C with eigenvalue l, the result goes
    from S the share l g(l) of the way to the minimum. All of S, C and R are sums, so the
    merge is exact in any order. Weights scale task vectors and are first brought to a
    mean of one; a negative one unlearns, but their sum must be positive. A zero task
    vector changes nothing. Tensors that are not linear weights are averaged by weight.

    The columns of D_i say as well what contribution i moved: its outputs. On that side
    the objective is |D_i^T (D - D_i)|^2 / |D_i|^2, C_i = D_i D_i^T / |D_i|^2, the result
    scale * (S + g(C) (R - C S)), and R the same, since D_i (D_i^T D_i) =
    (D_i D_i^T) D_i.

    Attributes:
        filter: "exponential": l g = 1 - exp(-time l), gradient flow stopped at `time`;
            "truncate": all the way on the K largest eigenvalues, where
            K = ceil((sum sqrt l)^2 / sum l), and S as it is on the others; "none": all
            the way wherever any contribution has inputs; "ridge": from zero instead of S,
            R (C + 1 / time)^-1, which needs no S in the state, and gives one
            contribution back somewhat smaller.
        time: t of the exponential filter and of the ridge; 300 as in the original's
            number of steps, 1300 with `keep` 0.65 for CLIP-ViT-B/32 (SWUDI).
        keep: share of the eigen-directions of C that any filter but the ridge acts on,
            the largest ones; 0.85 for language models (SWUDI).
        side: whose Gram matrices: "input", the paper's; "smaller": the side of fewer
            dimensions, so outputs where a weight is wider than high.
        scale: factor of the result; 0.1 to 0.2 in the recipes for language models.
        bound: largest magnitude of w D, a power of two.
        tables: which tensors are no linear weights.

    Source: Cheng et al. 2025, Whoever started the interference should end it,
        arXiv:2503.08099, the objective; they descend with Adam. SWUDI and ASWUDI,
        arXiv:2606.07289, and their released `functional.py` for the filters. That code
        takes eigenvalues below 1e-8 for 1e-8; here the exponential filter has its limit,
        and the other two leave S alone, where an eigenvalue is less than 1e-10 of the
        largest (1e-5 for float32 sums). The weights, the output side and
        the ridge are ours.

    Precision: errors of plain float32 sums come out up to `time` times as large.

    Memory: C is (in, in) whatever the rank of D, or (m, m) with m the smaller of both: a
        state of 16 (2 out in + in^2) or 16 (2 out in + m^2) bytes, and three more
        matrices of the size of C, float64, to finish. Time: one eigendecomposition of C.
        With the ridge 16 (out in + in^2) or 16 (out in + m^2), and one Cholesky
        factorisation.
    """

    filter: str = option(
        "exponential",
        "how far each direction goes",
        choices=("exponential", "truncate", "none", "ridge"),
    )
    time: float = option(300.0, "t of the exponential filter and of the ridge", above=0)
    keep: float = option(1.0, "share of eigen-directions that the filter acts on", above=0, most=1)
    side: str = option("input", "whose Gram matrices", choices=("input", "smaller"))
    scale: float = option(1.0, "factor of the result")
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)
    tables: str = tables_option()

    @property
    def gives_back_one(self) -> bool:
        """The one agrees with itself; only unscaled, and not with the ridge."""
        return self.scale == 1 and self.filter != "ridge"

    def linear_fields(self, shape: Shape) -> Mapping[str, Field]:
        """S, C and R; elements of C_i are at most 1, of R_i a row's norm, or a column's."""
        wide = self._on_outputs(shape)
        rows = 2.0 ** math.ceil(math.log2(shape[0] if wide else shape[1]) / 2)
        extent = square_of_inputs if self.side == "input" else square_of_smaller
        fields = {
            "grams": Sum(bound=2.0, limbs=2, extent=extent),
            "pulls": Sum(bound=self.bound * rows, limbs=2),
        }
        if self.filter == "ridge":
            return fields
        return {"sum": Sum(bound=self.bound, limbs=2), **fields}

    def lift_linear(self, delta: Tensor, weight: float) -> Mapping[str, Tensor]:
        """W D, C_i and w R_i."""
        wide = self._on_outputs(tuple(delta.shape))
        largest = float(delta.abs().max())
        unit = delta / largest if largest > 0 else delta
        gram = unit @ unit.T if wide else unit.T @ unit
        squares = float(gram.trace())
        if squares > 0:
            gram /= squares
        scaled = delta * weight
        pull = gram @ scaled if wide else scaled @ gram
        found = {"grams": gram, "pulls": pull}
        return found if self.filter == "ridge" else {"sum": scaled, **found}

    def finish_linear(self, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """From S along the residual, filtered."""
        factor = self.scale * mean_to_one(totals)
        if self.filter == "ridge":
            return self._ridge(state).mul_(factor)
        start = state["sum"].to(torch.float64)
        if totals.count == 1:
            return start * factor
        gram, pulls = state["grams"].to(torch.float64), state["pulls"].to(torch.float64)
        wide = self._on_outputs(tuple(start.shape))
        if wide:
            start, pulls = start.T, pulls.T
        residual = torch.addmm(pulls, start, gram, alpha=-1)
        values, vectors = torch.linalg.eigh(gram)
        gains, first = self._gains(values, 1e-10 if state["grams"].dtype == torch.float64 else 1e-5)
        vectors = vectors[:, first:]
        step = (vectors * gains) @ vectors.T
        found = torch.addmm(start, residual, step).mul_(factor)
        return found.T.contiguous() if wide else found

    def _ridge(self, state: Mapping[str, Tensor]) -> Tensor:
        """R (C + 1 / time)^-1, or the same from the left."""
        gram, pulls = state["grams"].to(torch.float64), state["pulls"].to(torch.float64)
        wide = self._on_outputs(tuple(pulls.shape))
        gram = gram.clone()
        gram.diagonal().add_(1 / self.time)
        found = torch.cholesky_solve(pulls if wide else pulls.T, torch.linalg.cholesky(gram))
        return found if wide else found.T.contiguous()

    def _on_outputs(self, shape: Shape) -> bool:
        return self.side == "smaller" and shape[0] < shape[1]

    def _gains(self, values: Tensor, tolerance: float) -> tuple[Tensor, int]:
        """G of the eigenvalues that the filter acts on, and the place of the first."""
        values = values.clamp(min=0)
        count = math.ceil(len(values) * self.keep - _CEILING_SLACK)
        if self.filter == "exponential":
            first = len(values) - count
            kept = values[first:]
            return torch.where(
                kept > 0, -torch.expm1(-self.time * kept) / kept.clamp(min=1e-300), self.time
            ), first
        supported = values[values > values[-1] * tolerance]
        count = min(count, len(supported))
        if self.filter == "truncate" and count > 0:
            spread = float(supported.sqrt().sum() ** 2 / supported.sum())
            count = min(count, math.ceil(spread * (1 - _CEILING_SLACK)))
        first = len(values) - count
        return 1 / values[first:], first
