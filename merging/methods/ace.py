"""ACE-Merging: a regression on inputs, whose covariances are read off the task vectors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.linear_fold import LinearFold, row_of_inputs, square_of_inputs
from weft.merging.matrices import tables_option
from weft.merging.method import Totals
from weft.merging.monoids import Field, Shape, scalar
from weft.merging.spectra import thin_svd
from weft.merging.sums import Count, Sum

_TINY = 1e-12
"""Added to a trace before it divides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ace(LinearFold):
    """scale * B (A + 1 p)^-1 for linear weights, plus a levelled residual where traces differ.

    With X_i = D_i less the mean of its rows, S_i = X_i^T X_i stands for the covariance of
    the inputs of contribution i. A = sum_i (S_i + e I), B = sum_i X_i (S_i + e I), e is
    `regularisation`, and p, a row that is added to each row of A, is the mean row of
    sum_i S_i. Where traces differ, that is var(l) > heterogeneity * mean(l)^2 for the
    logarithms l_i of |D_i|^2, S_i and e are divided by the trace of S_i and p by the mean
    of |D_i|^2, and mean(s_k) U_k V_k^T is added: the `share` leading singular triplets of
    the result so far plus sum_i D_i (S_i - mean_j (S_j + e_j I)), levelled.

    Which of the two it is, is known at the end only, so the state holds the sums of both;
    all of them are sums, so the merge is exact in any order. Weights multiply S_i and
    B_i, as if a contribution were there more than once; they are first brought to a mean
    of one, and their sum must be positive. They leave the logarithms alone. A task vector
    whose rows are all alike says nothing of its inputs and is left out. Tensors that are
    not linear weights are averaged by weight.

    Attributes:
        regularisation: e, the share of the plain mean that is mixed in.
        heterogeneity: gamma, how far the logarithms may vary before traces are
            normalised.
        share: of the singular triplets that the levelled residual has.
        scale: factor of the result.
        bound: largest magnitude of w D, a power of two; sums of squares and cubes follow
            it.
        tables: which tensors are no linear weights.

    Source: ACE-Merging 2026, arXiv:2603.02945, as in the authors' released `strategy.py`
        (the paper itself was not to be had). They keep a task vector of zeros, with a
        trace of 1e-12; we leave it out. The weights are ours.

    Memory: a state of (72 out + 32 in) in bytes, and three more (in, in) matrices of
        float64 to finish.
    """

    regularisation: float = option(1e-2, "e, added to each covariance", above=0)
    heterogeneity: float = option(0.3, "gamma above which traces are normalised", least=0)
    share: float = option(0.3, "of the singular triplets in the residual", least=0, most=1)
    scale: float = option(1.0, "factor of the result")
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)
    tables: str = tables_option()

    def linear_fields(self, shape: Shape) -> Mapping[str, Field]:
        """Both variants, and what chooses between them.

        Of task vectors of 1e-6 the products of three are about 1e-15, and of 1 about 1e9.
        """
        square, cube = self.bound * 2.0**18, self.bound * 2.0**28
        return {
            "sum": Sum(bound=self.bound, limbs=2),
            "grams": Sum(bound=square, limbs=2, extent=square_of_inputs),
            "pulls": Sum(bound=cube, limbs=3),
            "even_sum": Sum(bound=self.bound * 2.0**20, limbs=2),
            "even_grams": Sum(bound=self.bound, limbs=2, extent=square_of_inputs),
            "even_pulls": Sum(bound=self.bound * 2.0**12, limbs=2),
            "even_shifts": Sum(bound=self.bound * 2.0**12, limbs=2, extent=row_of_inputs),
            "inverses": Sum(bound=self.bound * 2.0**40, limbs=3, extent=scalar),
            "traces": Sum(bound=cube, limbs=3, extent=scalar),
            "weight": Sum(bound=self.bound, limbs=2, extent=scalar),
            "logs": Sum(limbs=2, extent=scalar),
            "log_squares": Sum(limbs=2, extent=scalar),
            "present": Count(extent=scalar),
        }

    def lift_linear(self, delta: Tensor, weight: float) -> Mapping[str, Tensor]:
        """The sums of one."""
        shift = delta.mean(dim=0)
        centred = delta - shift
        gram = centred.T @ centred
        trace = gram.trace()
        present = (trace > 0) | ~trace.isfinite()
        weight = weight if bool(present) else 0.0
        pull = centred @ gram
        share = weight / (trace + _TINY)
        whole = delta.square().sum()
        log = torch.log(whole + _TINY) * present
        return {
            "sum": delta * weight,
            "grams": gram * weight,
            "pulls": pull * weight,
            "even_sum": centred * share,
            "even_grams": gram * share,
            "even_pulls": pull * share,
            "even_shifts": (shift @ gram) * share,
            "inverses": share,
            "traces": whole * weight,
            "weight": trace.new_tensor(weight),
            "logs": log,
            "log_squares": log.square(),
            "present": present,
        }

    def finish_linear(self, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """Choose, solve, and add the residual where traces differ."""
        sums = {name: value.to(torch.float64) for name, value in state.items()}
        count, weight = float(sums["present"]), float(sums["weight"])
        if count == 0 or weight == 0:
            return torch.zeros_like(sums["sum"])
        if not self._differ(sums, count):
            return self._solved(sums, "", self.regularisation * weight) * self.scale
        solved = self._solved(sums, "even_", self.regularisation * float(sums["inverses"]))
        fused = solved + self._residual(sums) * (count / weight)
        left, values, right = thin_svd(fused, most=int(min(fused.shape) * self.share))
        if len(values) > 0:
            solved += left @ right * values.mean()
        return solved * self.scale

    def _differ(self, sums: Mapping[str, Tensor], count: float) -> bool:
        """Whether the logarithms of the traces vary too much."""
        if count < 2:
            return False
        mean = float(sums["logs"]) / count
        variance = (float(sums["log_squares"]) - count * mean * mean) / (count - 1)
        return variance > self.heterogeneity * (mean * mean + _TINY)

    def _solved(self, sums: Mapping[str, Tensor], variant: str, ridge: float) -> Tensor:
        """B (A + 1 p)^-1; a factor that all weights share cancels."""
        gram = sums[variant + "grams"]
        prior = gram.mean(dim=0)
        if variant:
            prior = prior / (sums["traces"] / sums["weight"] + _TINY)
            added = sums["even_sum"]
        else:
            added = sums["sum"] - sums["sum"].mean(dim=0)
        matrix = gram + prior
        matrix.diagonal().add_(ridge)
        pulls = sums[variant + "pulls"] + self.regularisation * added
        solved: Tensor = torch.linalg.solve(matrix, pulls, left=False)
        return solved

    def _residual(self, sums: Mapping[str, Tensor]) -> Tensor:
        """sum_i w_i D_i (S_i - mean_j (S_j + e_j I)), traces normalised."""
        mean = sums["even_grams"] / sums["weight"]
        ridge = self.regularisation * sums["inverses"] / sums["weight"]
        own = sums["even_pulls"] + sums["even_shifts"]
        return own - sums["sum"] @ mean - sums["sum"] * ridge
