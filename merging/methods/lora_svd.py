"""The best adapter for a mean, or a sum, of adapters: concatenate, then truncate."""

from collections.abc import Sequence
from dataclasses import dataclass

from weft.merging.factored import FactoredJoint, mean_of_factors, sum_of_factors
from weft.merging.factors import LowRank, truncated
from weft.merging.hyperparameters import option
from weft.merging.matrices import tables_option
from weft.merging.method import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSvd(FactoredJoint):
    """The nearest matrix of a given rank to sum_i w_i D_i / sum_i w_i, or to sum_i w_i D_i.

    Averaging the factors of adapters for themselves mixes each B with another's A; this
    averages what they do, and pays for the rank only once, at the end. The nearest in the
    Frobenius norm, by Eckart and Young. Tensors that are not linear weights are averaged
    in either case, so the weights' sum must be positive.

    Attributes:
        rank: of the result; zero: the largest rank among the contributions, which for
            dense task vectors is their numerical rank.
        combine: what is approximated.
        tables: which tensors are no linear weights.

    Source: the concatenation of units that LoRA-LEGO sets out from (Zhao et al. 2025,
        arXiv:2409.16167), with the optimal truncation of Eckart and Young 1936 in place
        of its clusters; in use as `combination_type="svd"` of the PEFT library, whose
        default rank is ours. The weights are ours.
    """

    rank: int = option(0, "of the result; zero: the largest that comes in", least=0)
    combine: str = option("mean", "what is approximated", choices=("mean", "sum"))
    tables: str = tables_option()

    @property
    def gives_back_one(self) -> bool:
        """A mean that is not cut shorter than what comes in."""
        return self.combine == "mean" and self.rank == 0

    def merge_factors(
        self, name: str, factors: Sequence[LowRank], facts: Sequence[Facts]
    ) -> LowRank:
        """The exact combination, truncated."""
        together = mean_of_factors if self.combine == "mean" else sum_of_factors
        exact = together(name, factors, facts)
        return truncated(exact, self.rank or max(part.rank for part in factors))
