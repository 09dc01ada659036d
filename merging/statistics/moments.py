"""Folding the running statistics of BatchNorm over nodes, exactly.

Running means and variances are not merged like weights: they belong to the data. Each
node runs the merged model over some of its own data, and contributes for each channel
how many values it saw, their mean and their variance. The sums of counts, of values and
of squares make the statistics of all the data together. As sums of a fold they are
exact: in whatever order the contributions come, all nodes end with the same bytes.

>>> one = Moments(count=torch.tensor([1.0]), mean=torch.tensor([2.0]), var=torch.tensor([0.0]))
>>> two = Moments(count=torch.tensor([3.0]), mean=torch.tensor([6.0]), var=torch.tensor([0.0]))
>>> total = fold_moments("bn1", {"a": one, "b": two})
>>> total.mean.item(), total.var.item(), total.unbiased_var.item()
(5.0, 3.0, 4.0)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.merging.errors import BadOption, CannotMerge
from weft.merging.state import State
from weft.merging.sums import Sum

# Sums over whole data sets: few elements of wide range. The bound lets 2.8e14 values of
# mean square one into one contribution; the second limb resolves 2^-43.
_EXACT = Sum(bound=2.0**48, limbs=2)
_FIELDS = {"count": _EXACT, "first": _EXACT, "second": _EXACT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What the channels of one layer saw.

    Attributes:
        count: (channels,), float; values seen: batch times height times width, summed
            over batches. The same for all channels, as a rule.
        mean: (channels,), float.
        var: (channels,), float; biased, that is divided by `count`.

    Raises:
        BadOption: shapes that differ, or a negative count or variance.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in (self.count, self.mean, self.var)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise BadOption(
                f"moments with count, mean and var of shapes {shapes[0]}, {shapes[1]} and"
                f" {shapes[2]}: expected (channels,) for all three"
            )
        if bool((self.count < 0).any()) or bool((self.var < 0).any()):
            raise BadOption("moments with a negative count or variance")

    @property
    def unbiased_var(self) -> Tensor:
        """What torch keeps as `running_var`: count / (count - 1) times the biased one."""
        return self.var * self.count / (self.count - 1).clamp(min=1)


class MomentSum:
    """The moments of one layer, folded over contributions."""

    def __init__(self, layer: str, channels: int) -> None:
        self._layer = layer
        self._state = State.zero(_FIELDS, (channels,))

    def add(self, moments: Moments, contribution: str) -> None:
        """Fold in what one node saw.

        Raises:
            NonFinite, OutOfBound, CannotMerge: names contribution and layer.
        """
        self._state.add(_lift(moments), self._where(contribution))

    def remove(self, moments: Moments, contribution: str) -> None:
        """Take out again what `add` folded in, byte for byte."""
        self._state.remove(_lift(moments), self._where(contribution))

    def combine(self, other: "MomentSum") -> None:
        """Fold in all that another sum of the same layer holds."""
        self._state.combine(other._state, f"layer {self._layer!r}")

    def finish(self) -> Moments:
        """The moments of all values together, float64.

        Raises:
            CannotMerge: a channel for which nobody saw a value.
        """
        values = self._state.values()
        count = values["count"]
        if not bool((count > 0).all()):
            raise CannotMerge(f"layer {self._layer!r}: a channel for which nobody has statistics")
        mean = values["first"] / count
        # Rounding can leave a constant channel a hair below zero.
        var = (values["second"] / count - mean * mean).clamp_(min=0.0)
        return Moments(count=count, mean=mean, var=var)

    def to_tensors(self) -> dict[str, Tensor]:
        """The state as named tensors; equal states give equal bytes."""
        return self._state.to_tensors()

    def _where(self, contribution: str) -> str:
        return f"{contribution}, layer {self._layer!r}"


def fold_moments(layer: str, contributions: Mapping[str, Moments]) -> Moments:
    """The moments of a layer over all contributions, by name; see `MomentSum`."""
    channels = next((moments.count.numel() for moments in contributions.values()), 0)
    if channels == 0:
        raise CannotMerge(f"layer {layer!r}: nobody contributed statistics")
    total = MomentSum(layer, channels)
    for name, moments in contributions.items():
        total.add(moments, name)
    return total.finish()


def _lift(moments: Moments) -> dict[str, Tensor]:
    count, mean, var = (
        tensor.to(torch.float64) for tensor in (moments.count, moments.mean, moments.var)
    )
    return {"count": count, "first": count * mean, "second": count * (var + mean * mean)}
