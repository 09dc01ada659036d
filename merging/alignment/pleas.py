"""Two networks in one that is a little wider: what matches is merged, the rest stays apart.

Of every group that can be widened the units with the poorest counterparts are kept twice,
the anchor's and the other model's side by side. Apart units of one model are read by no
apart unit of the other. At a width of 1 this is the plain merge of aligned models, at 2
both models run beside each other and their outputs are averaged.

Source: Nasery et al. 2024, "PLeaS: Merging Models with Permutations and Least Squares",
    section 3. Departures: one share of every group is kept apart, rather than shares chosen
    layer by layer under a budget of operations; the least squares are in `least_squares`, in
    closed form. Which groups can be widened is asked of the module itself: a unit more that
    says and is read as zero must leave its outputs as they were.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from torch import Tensor, nn

from weft.merging.alignment.axes import Axes, Product, Sum, Term, Units
from weft.merging.alignment.calls import Value
from weft.merging.alignment.groups import Groups
from weft.merging.alignment.observation import Seen
from weft.merging.alignment.orientation import Oriented, along_leaf
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.strands import rewritten
from weft.merging.errors import BadOption, CannotAlign

SAME: Final = 1e-4
"""Outputs are as they were: no more than this share of the largest one away."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Partial:
    """What is merged and what stays apart.

    Attributes:
        groups: of both models, the other one in the anchor's order.
        weight: of the anchor in what is merged; the other one has the rest.
        apart: by group, the units that are kept twice, int64 in ascending order; the anchor's
            stay where they are, the other's follow after all.
    """

    groups: Groups
    weight: float
    apart: Mapping[Oriented, Tensor]

    def tensor(self, anchor: Tensor, other: Tensor, name: str) -> Tensor:
        """A tensor of the wider network."""
        made = {place: each for each in self.apart for place in each.made.get(name, ())}
        read = {place: each for each in self.apart for place in each.read.get(name, ())}
        return self._mixed(anchor, other, self.groups.layouts[name], made, read)

    def value(self, anchor: Tensor, other: Tensor, layout: Value) -> Tensor:
        """What a value of the wider network should be, of what it is in both."""
        by_leaf = {each.group.leaf: each for each in self.apart}
        leaves = (leaf for term in layout for leaf in self.groups.axes.leaves(term))
        made = {
            place: by_leaf[leaf]
            for place, leaf in enumerate(each for each in leaves if each.size != 1)
            if leaf in by_leaf
        }
        return self._mixed(anchor, other, layout, made, {})

    def applied(self, anchor: Tensors, other: Tensors) -> dict[str, Tensor]:
        """The wider network's tensors by name; those that are no floats are the anchor's."""
        return {
            name: self.tensor(tensor, other[name], name)
            if name in self.groups.layouts and tensor.is_floating_point()
            else tensor
            for name, tensor in anchor.items()
        }

    def _mixed(
        self,
        anchor: Tensor,
        other: Tensor,
        layout: Value,
        made: Mapping[int, Oriented],
        read: Mapping[int, Oriented],
    ) -> Tensor:
        widths = {each.group.leaf: each.group.size + len(self.apart[each]) for each in self.apart}
        shape = [width(self.groups.axes, term, widths) for term in layout]
        parts = []
        for tensor, weight, mine in ((anchor, self.weight, True), (other, 1 - self.weight, False)):
            matrices = {place: self._made(each, weight, mine) for place, each in made.items()}
            matrices |= {place: self._read(each, mine) for place, each in read.items()}
            change = _Mix(matrices, frozenset(made), weight)
            parts.append(rewritten(self.groups.axes, tensor, layout, change, shape))
        return parts[0] + parts[1]

    def _made(self, oriented: Oriented, weight: float, mine: bool) -> Tensor:
        """(new units, units): what a new unit takes of one model's units."""
        apart, size = self.apart[oriented], oriented.group.size
        shares = torch.full((size,), weight, dtype=torch.float64)
        shares[apart] = 1.0 if mine else 0.0
        return torch.cat([torch.diag(shares), _rows(apart, size) * (0.0 if mine else 1.0)])

    def _read(self, oriented: Oriented, mine: bool) -> Tensor:
        """(new units, units): which of one model's readers read a new unit."""
        apart, size = self.apart[oriented], oriented.group.size
        shares = torch.ones(size, dtype=torch.float64)
        shares[apart] = 1.0 if mine else 0.0
        return torch.cat([torch.diag(shares), _rows(apart, size) * (0.0 if mine else 1.0)])


@dataclass(frozen=True, slots=True)
class _Mix:
    """One model's share of a piece: by its makers' matrix, or plainly where it has none."""

    matrices: Mapping[int, Tensor]
    made: frozenset[int]
    weight: float

    def __call__(self, piece: Tensor, leaves: list[Units], places: list[int]) -> Tensor:
        for axis, place in enumerate(places):
            if place in self.matrices:
                matrix = self.matrices[place].to(piece)
                piece = torch.tensordot(matrix, piece, dims=([1], [axis])).movedim(0, axis)
        return piece if self.made & set(places) else piece * self.weight


def partial_by(
    seen: Seen,
    permutation: Permutation,
    widened: Sequence[Oriented],
    *,
    width: float,
    weight: float = 0.5,
) -> Partial:
    """Keep those pairs apart that have the least in common.

    Args:
        seen: what the units of both models do.
        permutation: that the other model's units will be put in.
        widened: see `widenable`.
        width: of the result, 1 to 2 times the models'; rounded for each group.
        weight: of the anchor in what is merged.

    Raises:
        BadOption: a width that is not from 1 to 2, a weight that is not between 0 and 1.
    """
    if not 1 <= width <= 2:
        raise BadOption(f"width = {width}; expected 1 to 2 times that of the models")
    if not 0 < weight < 1:
        raise BadOption(f"weight = {weight}; expected a number between 0 and 1")
    apart: dict[Oriented, Tensor] = {}
    for each in widened:
        count = round((width - 1) * each.group.size)
        found = _common(each, seen, permutation).argsort(stable=True)[:count]
        apart[each] = found.sort().values
    return Partial(permutation.groups, weight, apart)


def widenable(
    model: nn.Module,
    groups: Groups,
    oriented: Sequence[Oriented],
    inputs: Sequence[Tensor],
    keywords: Mapping[str, Tensor],
) -> list[Oriented]:
    """The groups to which the module takes one unit more.

    Args:
        model: in evaluation mode; not changed.
        groups: of the model.
        oriented: of the model.
        inputs: its arguments; the smaller, the faster.
        keywords: those by name.
    """
    tensors = {
        name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    wanted = _outputs(model, tensors, inputs, keywords)
    return [
        each
        for each in oriented
        if _takes_one_more(model, groups, each, tensors, wanted, inputs, keywords)
    ]


def reshaped(model: nn.Module, tensors: Tensors) -> nn.Module:
    """A copy of a module with tensors of other shapes.

    What a layer notes of its own width (such as `out_features`) stays as it was.

    Args:
        model: copied.
        tensors: parameters and buffers by name; tied ones under their first name.

    Raises:
        CannotAlign: a tensor of another number of axes than the module's.
    """
    result = deepcopy(model)
    for name, parameter in result.named_parameters():
        if name in tensors:
            _fits(name, parameter, tensors[name])
            parameter.data = tensors[name].to(parameter).clone()
    for name, buffer in result.named_buffers():
        if name in tensors:
            _fits(name, buffer, tensors[name])
            buffer.data = tensors[name].to(buffer).clone()
    return result


def width(axes: Axes, term: Term, widths: Mapping[Units, int]) -> int:
    """How many units a term has, where some leaves have become wider."""
    match found := axes.resolved(term):
        case Units():
            return widths.get(found, found.size)
        case Product():
            return prod(width(axes, part, widths) for part in found.parts)
        case Sum():
            return sum(width(axes, part, widths) for part in found.parts)


def _rows(units: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)[units]


def _common(oriented: Oriented, seen: Seen, permutation: Permutation) -> Tensor:
    """(size,): the correlation of each of the anchor's units with its counterpart."""
    total = torch.zeros(oriented.group.size, dtype=torch.float64)
    order = permutation.orders.get(oriented.group, torch.arange(oriented.group.size))
    for site, moments in seen.items():
        if site.group is oriented.group:
            total += moments.correlations().gather(1, order[:, None])[:, 0]
    return total


def _takes_one_more(
    model: nn.Module,
    groups: Groups,
    oriented: Oriented,
    tensors: Tensors,
    wanted: list[Tensor],
    inputs: Sequence[Tensor],
    keywords: Mapping[str, Tensor],
) -> bool:
    size = oriented.group.size
    matrix = torch.eye(size + 1, size, dtype=torch.float64)
    longer = dict(tensors)
    for name in {*oriented.made, *oriented.read} & tensors.keys():
        layout = groups.layouts[name]
        places = oriented.made.get(name, frozenset()) | oriented.read.get(name, frozenset())
        shape = [width(groups.axes, term, {oriented.group.leaf: size + 1}) for term in layout]
        longer[name] = along_leaf(
            groups.axes, tensors[name], layout, dict.fromkeys(places, matrix), shape
        )
    try:
        found = _outputs(model, longer, inputs, keywords)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        # The module's own code may say in many ways that its width is written down in it.
        return False
    return len(found) == len(wanted) and all(map(_same, found, wanted))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= SAME * other.abs().max())


def _outputs(
    model: nn.Module, tensors: Tensors, inputs: Sequence[Tensor], keywords: Mapping[str, Tensor]
) -> list[Tensor]:
    with torch.no_grad():
        found = torch.func.functional_call(model, dict(tensors), tuple(inputs), dict(keywords))
    flat = torch.utils._pytree.tree_leaves(found)
    return [each for each in flat if isinstance(each, Tensor) and each.is_floating_point()]


def _fits(name: str, old: Tensor, new: Tensor) -> None:
    if old.dim() != new.dim():
        raise CannotAlign(
            f"{name}: found {new.dim()} axes, expected {old.dim()}; take the tensors of this model"
        )
