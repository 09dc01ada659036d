"""Joint methods that can merge adapters without leaving their factors.

A caller that holds every contribution's update of a tensor as `LowRank` calls
`merge_factors` and gets factors back; one that holds dense task vectors calls `merge`,
as with any joint method. The mean and the sum of factors stand here as functions: they
are exact by concatenation, so `mean` and `task_arithmetic` can stay folds and adapters
can stay factored all the same.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from weft.merging.consensus import require_finite, total_weight
from weft.merging.factors import LowRank, concatenated, from_dense, require_one_shape
from weft.merging.linear_joint import LinearJoint
from weft.merging.method import Facts


class FactoredJoint(LinearJoint):
    """A joint method of linear weights that works on the factors of its task vectors."""

    __slots__ = ()

    @abstractmethod
    def merge_factors(
        self, name: str, factors: Sequence[LowRank], facts: Sequence[Facts]
    ) -> LowRank:
        """The merged task vector of a linear weight, as factors.

        Args:
            name: of the tensor.
            factors: one task vector a contribution, sorted by name; not modified.
            facts: one for each. None has a weight of zero.

        Raises:
            CannotMerge: the shapes differ, or the weights do not make a merge.
            NonFinite: names contribution, tensor and value.
        """

    def merge_linear(self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> Tensor:
        """By way of factors at numerical rank."""
        if len(blocks) == 1 and self.gives_back_one:
            return blocks[0].clone()
        factors = [from_dense(block) for block in blocks]
        return self.merge_factors(name, factors, facts).dense()


def mean_of_factors(name: str, factors: Sequence[LowRank], facts: Sequence[Facts]) -> LowRank:
    """sum_i w_i D_i / sum_i w_i as factors; of the rank of all together.

    Raises:
        CannotMerge: the shapes differ, or the weights do not sum to more than zero.
        NonFinite: names contribution, tensor and value.
    """
    require_factors(name, factors, facts)
    total = total_weight(name, facts)
    return concatenated(factors, [fact.weight / total for fact in facts])


def sum_of_factors(
    name: str, factors: Sequence[LowRank], facts: Sequence[Facts], scale: float = 1.0
) -> LowRank:
    """Task arithmetic, scale * sum_i w_i D_i, as factors; of the rank of all together.

    Raises:
        CannotMerge: the shapes differ.
        NonFinite: names contribution, tensor and value.
    """
    require_factors(name, factors, facts)
    return concatenated(factors, [fact.weight * scale for fact in facts])


def require_factors(name: str, factors: Sequence[LowRank], facts: Sequence[Facts]) -> None:
    """The factors fit each other and are finite.

    Raises:
        CannotMerge: there are none, or the shapes differ.
        NonFinite: names contribution, tensor and value.
    """
    require_one_shape(factors)
    require_finite(name, [part.B for part in factors], facts)
    require_finite(name, [part.A for part in factors], facts)
