"""The answer of a survey: facts of many contributions, ready to be handed to a method."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.method import Extent, Facts, Layer, Method, TensorSums
from weft.merging.table import name_of

Cuts: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer of a survey; what nobody asked for is empty.

    Attributes:
        norms: of each contribution's task vector, over all tensors.
        squares: squared norms, one a contribution, by tensor; with `norms`.
        sums: one a contribution, by tensor.
        gram: inner products over all tensors, (n, n), float64.
        grams: the same by tensor.
        model_cuts: of each contribution, the answers to cuts of extent model.
        tensor_cuts: the same for extent tensor, by tensor.
        layers: of the tensors.
        keys: one a contribution.
        scales: factors found beforehand, one a contribution, by tensor.
    """

    norms: tuple[float, ...] = ()
    squares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sums: Mapping[str, tuple[TensorSums, ...]] = field(default_factory=dict)
    gram: Tensor | None = None
    grams: Mapping[str, Tensor] = field(default_factory=dict)
    model_cuts: tuple[Cuts, ...] = ()
    tensor_cuts: Mapping[str, tuple[Cuts, ...]] = field(default_factory=dict)
    layers: Mapping[str, Layer] = field(default_factory=dict)
    keys: tuple[bytes, ...] = ()
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def facts(self, index: int, facts: Facts, method: Method, name: str) -> Facts:
        """Facts of contribution `index` with all that is known of it and a tensor.

        Args:
            index: of the contribution.
            facts: its name and weight, and the place of the block.
            method: what will be told.
            name: of the tensor.

        Raises:
            CannotMerge: it asks for ranks that were not looked up.
        """
        sums = self.sums.get(name)
        return replace(
            facts,
            norm=self.norms[index] if self.norms else None,
            sums=sums[index] if sums else None,
            cuts=self._cuts(index, method, name),
            key=self.keys[index] if self.keys else b"",
            layer=self.layers.get(name),
            scale=self.scales[name][index] if self.scales else None,
        )

    def _cuts(self, index: int, method: Method, name: str) -> Cuts:
        if not method.cuts:
            return ()
        answers = {
            Extent.MODEL: iter(self.model_cuts[index] if self.model_cuts else ()),
            Extent.TENSOR: iter(self.tensor_cuts[name][index] if self.tensor_cuts else ()),
        }
        asked = (next(answers[cut.extent], None) for cut in method.cuts)
        found = tuple(cut for cut in asked if cut is not None)
        if len(found) < len(method.cuts):
            raise CannotMerge(
                f"tensor {name!r}: {name_of(method)} asks for ranks there that were not"
                " looked up; the method that says what is needed asks for none"
            )
        return found
