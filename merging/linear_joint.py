"""Joint methods that treat linear weights as matrices, and average everything else.

The twin of `linear_fold.py` for methods that must see all contributions at once.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from weft.merging.consensus import require_finite, weighted_mean
from weft.merging.matrices import linear_scope
from weft.merging.method import Facts, Joint, Need, Scope
from weft.merging.monoids import Shape


class LinearJoint(Joint):
    """A joint method with a merge of its own for linear weights; the weighted mean for others."""

    __slots__ = ()

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    tables: str

    @abstractmethod
    def merge_linear(self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts]) -> Tensor:
        """The merged task vector of a linear weight.

        Args:
            name: of the tensor.
            blocks: (out, in), one task vector a contribution, all finite. Not modified.
            facts: one for each block.

        Returns:
            (out, in), of any float dtype.
        """

    def scope(self, name: str, shape: Shape) -> Scope:
        """Linear weights whole."""
        return linear_scope(name, shape, self.tables)

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        """The linear weight's own, or the weighted mean."""
        require_finite(name, blocks, facts)
        if self.scope(name, tuple(blocks[0].shape)) is not Scope.MATRIX:
            return weighted_mean(name, blocks, facts)
        return self.merge_linear(name, blocks, facts).to(blocks[0].dtype)
