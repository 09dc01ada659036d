"""Iso-C: the sum of task vectors with all its singular values alike."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.linear_fold import LinearFold, mean_to_one
from weft.merging.matrices import tables_option
from weft.merging.method import Totals
from weft.merging.monoids import Field, Shape
from weft.merging.spectra import RANK_TOLERANCE, levelled
from weft.merging.sums import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoC(LinearFold):
    """scale * mean(s) U V^T for linear weights, where sum_i w_i D_i = U diag(s) V^T.

    Directions that only few contributions use are lifted to the strength of those that
    all share. The state is the sum alone. Weights scale task vectors and are first
    brought to a mean of one; a negative one unlearns, but their sum must be positive.
    Tensors that are not linear weights are averaged by weight.

    Attributes:
        scale: lambda; the authors tune it between 1.0 and 1.5.
        rank_tolerance: directions whose singular value is below this share of the
            largest are left out, of the mean and of the result. Task vectors of low
            rank that were rounded when added to a base (adapters folded into float32 or
            bfloat16 weights) have full rank, and the rounding errors would be lifted
            like anything else: about 1e-4 or 1e-2 leaves them out.
        bound: largest magnitude of w D, a power of two.
        tables: which tensors are no linear weights.

    Source: Marczak et al. 2025, No task left behind, arXiv:2502.04959, Iso-C, and their
        released `iso.py`, which takes all directions, so those of the null space too;
        ours are those of the numerical rank. The weights are ours.

    Memory: state of 16 bytes an element; finishing takes four matrices.
    """

    scale: float = option(1.0, "lambda, the factor of the result")
    rank_tolerance: float = option(
        RANK_TOLERANCE, "share of the largest singular value that counts as zero", least=0, below=1
    )
    bound: float = option(2.0**12, "largest magnitude of w D", power_of_two=True)
    tables: str = tables_option()

    def linear_fields(self, shape: Shape) -> Mapping[str, Field]:
        """The weighted sum; finer than others, as its smallest directions count fully."""
        return {"sum": Sum(bound=self.bound, limbs=2)}

    def lift_linear(self, delta: Tensor, weight: float) -> Mapping[str, Tensor]:
        """W D."""
        return {"sum": delta * weight}

    def finish_linear(self, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """Level the sum."""
        return levelled(state["sum"], self.rank_tolerance) * (self.scale * mean_to_one(totals))
