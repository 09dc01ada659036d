"""Delta-guided fusion: a tensor weighs by how far training moved it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from weft.merging.fact_weighted import BOUND, FactWeighted
from weft.merging.given import tensor_sums
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Need, TensorSums


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaGuided(FactWeighted):
    """sum_i w_i v_i D_i / sum_i w_i v_i, with v_i from the size of D_i over the tensor.

    v is mean |D| ("l1"), sqrt(mean D^2) ("l2") or mean D^2 ("l2sq", which is `varm`), or
    one over it. Only the proportions of the weights matter. A task vector of size zero
    has no say, whether inverted or not; the base is left where all are zero.

    Attributes:
        measure: how the size is measured.
        invert: give most weight to who moved least.
        bound: largest magnitude of w v D, a power of two. Inverted, v can be large.

    Source: CoDiEmb, arXiv:2508.11442, whose abstract says that checkpoints are weighted
        by how far each parameter moved from its initialisation. The formula was not to be
        had: the measures, the inversion and the weights w are our proposal.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE, Need.SUMS})

    measure: str = option("l1", "size of a task vector", choices=("l1", "l2", "l2sq"))
    invert: bool = option(False, "whether who moved least weighs most")
    bound: float = option(BOUND, "largest magnitude of w v D", power_of_two=True)

    def share(self, name: str, facts: Facts) -> float:
        """W v."""
        size = self._size(tensor_sums(name, facts))
        if size == 0:
            return 0.0
        return facts.weight / size if self.invert else facts.weight * size

    def _size(self, sums: TensorSums) -> float:
        if self.measure == "l1":
            return sums.absolute / sums.elements if sums.elements else 0.0
        return math.sqrt(sums.energy) if self.measure == "l2" else sums.energy
