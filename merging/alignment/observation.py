"""What units do: moments of activations, of several models at once, batch by batch.

All models go through the graph side by side, node by node, so that of every value no more is
kept than what is still read, and the anchor is run once for all others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node

from weft.merging.alignment.axes import Units
from weft.merging.alignment.calls import operator_name, shapes_of
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.tracing import Traced, fed
from weft.merging.alignment.weights import pieces, unit_rows
from weft.merging.errors import CannotAlign

READERS: Final = frozenset(
    {"linear", "convolution", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum",
     "scaled_dot_product_attention"}
    | {f"conv{turned}{places}d" for turned in ("", "_transpose") for places in (1, 2, 3)}
)  # fmt: skip
ROUNDING: Final = 3e-6
"""Less of a mean square is no variance: it is what float32 leaves of the difference of two."""

Tensors = Mapping[str, Tensor]
Batch = Sequence[Tensor]
"""The arguments of the model, of the shapes that it was traced with."""


@dataclass(frozen=True, slots=True)
class Site:
    """A value that a contraction reads, where a group is the innermost one.

    Attributes:
        node: whose value; its name.
        piece: which one of its strands.
    """

    group: Group
    node: str
    piece: int


@dataclass(slots=True)
class Moments:
    """Running sums over samples of one site, for an anchor and another model.

    float64: (units,) each, and (anchor's units, other's units) for the products.
    """

    count: int
    sums: tuple[Tensor, Tensor]
    squares: tuple[Tensor, Tensor]
    products: Tensor

    def plus(self, more: "Moments") -> "Moments":
        """Over the samples of both."""
        return Moments(
            self.count + more.count,
            (self.sums[0] + more.sums[0], self.sums[1] + more.sums[1]),
            (self.squares[0] + more.squares[0], self.squares[1] + more.squares[1]),
            self.products + more.products,
        )

    def correlations(self) -> Tensor:
        """(anchor's units, other's units) float64 in -1..1; zero where a unit never changes."""
        means = [each / self.count for each in self.sums]
        variances = [
            (square / self.count - mean.square()).clamp(min=0)
            for square, mean in zip(self.squares, means, strict=True)
        ]
        alive = [
            found > ROUNDING * square / self.count + 1e-30
            for found, square in zip(variances, self.squares, strict=True)
        ]
        deviations = [found.clamp(min=1e-30).sqrt() for found in variances]
        covariance = self.products / self.count - torch.outer(*means)
        found = covariance / torch.outer(*deviations)
        return torch.where(torch.outer(*alive), found, torch.zeros(()).double())


Seen: TypeAlias = dict[Site, Moments]
"""Of an anchor and another model."""


def observed(
    traced: Traced,
    groups: Groups,
    anchor: Tensors,
    others: Sequence[Tensors],
    batches: Iterable[Batch],
    dtype: torch.dtype | None = None,
) -> list[Seen]:
    """Look at what the units of an anchor and of other models do.

    Args:
        traced: the graph of all; it says of which shapes the batches are.
        groups: of all.
        anchor: parameters and buffers by name.
        others: those of the other models.
        batches: read once; memory does not depend on how many there are.
        dtype: of what is computed; None: of the models. Where the processor has bfloat16, that
            takes half the time, and tells units apart as well.

    Returns:
        For each of the others, what it and the anchor do.

    Raises:
        CannotAlign: no batch.
    """
    watch = Watch(traced, groups)
    models = [_ready(model, dtype) for model in (anchor, *others)]
    found: list[Seen] = [{} for _ in others]
    for batch in batches:
        given = [_in_dtype(each, dtype) for each in batch]
        for site, (mine, *rest) in watch.activations(models, given):
            first = _sums(mine)
            for seen, theirs in zip(found, rest, strict=True):
                more = _moments(mine, first, theirs)
                seen[site] = seen[site].plus(more) if site in seen else more
    if others and not found[0]:
        raise CannotAlign("matching by activations: found no calibration batch, expected one")
    return found


class Watch:
    """Runs the graph of a model, and looks at what contractions read."""

    def __init__(self, traced: Traced, groups: Groups) -> None:
        self._traced, self._groups = traced, groups
        computed = fed(traced.program)
        self._sites = {
            source
            for node in traced.program.graph.nodes
            if node.op == "call_function" and operator_name(node) in READERS
            for source in node.all_input_nodes
            if source in computed and source.op == "call_function" and len(shapes_of(source)) == 1
        }
        self._by_leaf = {group.leaf: group for group in groups.groups}

    def activations(
        self, models: Sequence[Tensors], batch: Batch
    ) -> Iterator[tuple[Site, list[Tensor]]]:
        """For each site (units, samples) of every model, float32.

        Units are in the order of the group's path: outer ones by inner ones.
        """
        for node, values in values_of(self._traced, models, batch):
            if node in self._sites:
                yield from self._of_site(node, values)

    def _of_site(self, node: Node, values: list[Any]) -> Iterator[tuple[Site, list[Tensor]]]:
        layout = self._traced.values[node]
        if isinstance(layout, list):
            return
        strands = [pieces(self._groups, value, value, layout) for value in values]
        for number, found in enumerate(zip(*strands, strict=True)):
            leaves = found[0][2]
            for group in self._innermost(leaves):
                rows = [unit_rows(piece, leaves, group).float() for piece, _, _ in found]
                yield Site(group, node.name, number), rows

    def _innermost(self, leaves: Sequence[Units]) -> Iterator[Group]:
        """Groups of a piece that no other one of it lies within."""
        found = [self._by_leaf[leaf] for leaf in dict.fromkeys(leaves) if leaf in self._by_leaf]
        outer = {leaf for group in found for leaf in group.within}
        for group in found:
            if group.leaf not in outer and leaves.count(group.leaf) == 1:
                yield group


def values_of(
    traced: Traced, models: Sequence[Tensors], batch: Batch
) -> Iterator[tuple[Node, list[Any]]]:
    """Run several models side by side; every node with what it returns in each of them."""
    module = traced.program.graph_module
    runners = [Interpreter(module) for _ in models]
    for runner, tensors in zip(runners, models, strict=True):
        runner.args_iter = iter(list(_arguments(traced, tensors, iter(batch))))
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "output":
                continue
            values = []
            for runner in runners:
                runner.env[node] = runner.run_node(node)
                values.append(runner.env[node])
                for read in runner.user_to_last_uses.get(node, ()):
                    del runner.env[read]
            yield node, values


def _arguments(traced: Traced, tensors: Tensors, given: Iterator[Tensor]) -> Iterator[Tensor]:
    """Of the graph: the model's tensors and constants, then what it is called with."""
    program, tied = traced.program, traced.tied
    for spec in program.graph_signature.input_specs:
        name = spec.target or ""
        if spec.kind is InputKind.USER_INPUT:
            yield next(given)
        elif tied.get(name, name) in tensors:
            yield tensors[tied.get(name, name)]
        else:
            # Constants, and buffers that no file holds.
            yield program.constants[name]


def _ready(tensors: Tensors, dtype: torch.dtype | None) -> Tensors:
    """A model's tensors in a dtype, weights of images so that channels lie side by side.

    What convolutions return lies so too then. Narrow ones are twice as fast, and activations
    are (samples, units) as they are.
    """
    found = {name: _in_dtype(tensor, dtype) for name, tensor in tensors.items()}
    return {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in found.items()
    }


def _in_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def _sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares, added up in pairs in float32 and returned in float64."""
    return rows.sum(1).double(), rows.square().sum(1).double()


def _moments(mine: Tensor, first: tuple[Tensor, Tensor], theirs: Tensor) -> Moments:
    second = _sums(theirs)
    sums, squares = zip(first, second, strict=True)
    return Moments(mine.shape[1], sums, squares, (mine @ theirs.T).double())
