"""VaRM: each task vector weighs as much as it has energy, tensor by tensor."""

from dataclasses import dataclass
from typing import ClassVar

from weft.merging.fact_weighted import BOUND, FactWeighted
from weft.merging.given import tensor_sums
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Varm(FactWeighted):
    """sum_i w_i q_i D_i / sum_i w_i q_i, q_i = mean(D_i^2) over the tensor.

    Whoever moved a tensor most has most to say about it, so an outlier has too: clip
    norms first where contributors are not trusted. A weight multiplies the energy, and
    only the proportions of the weights matter. The base is left where nobody moved it.

    Attributes:
        bound: largest magnitude of w q D, a power of two. Exact sums of these, cubes of
            changes, have a unit of 2^-131 of it: by default they keep seven digits down to
            a root mean square of 1e-9, and nothing below 1e-12.

    Source: Wan et al. 2024, FuseChat, arXiv:2402.16107, VaRM: W_(j,m) = E(D_(j,m)^2) over
        the sum of the same, for each parameter matrix m; here for every tensor, and the
        weights w are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE, Need.SUMS})

    bound: float = option(BOUND, "largest magnitude of w q D", power_of_two=True)

    def share(self, name: str, facts: Facts) -> float:
        """W q."""
        return facts.weight * tensor_sums(name, facts).energy
