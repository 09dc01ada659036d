"""Matching by what units do: the correlation of activations on a node's own data.

Source: Saadati et al. 2024, "DIMAT", Algorithm 1, after Li et al. 2015, "Convergent
    Learning" and Stoica et al. 2023, "ZipIt!": units are matched by the correlation of their
    activations. Departures: activations are taken where a contraction reads them, which a
    traced graph tells, and not at marks in a graph written by hand; correlations of all
    readers of a group are added; dead units correlate with nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node

from weft.merging.alignment.assignment import Pairs, Tree, best_orders, trees_of
from weft.merging.alignment.axes import Units
from weft.merging.alignment.calls import operator_name, shapes_of
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.tracing import Traced
from weft.merging.alignment.weights import Common, pieces, rows
from weft.merging.errors import CannotAlign

READERS: Final = frozenset(
    {"linear", "convolution", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum",
     "scaled_dot_product_attention"}
    | {f"conv{turned}{places}d" for turned in ("", "_transpose") for places in (1, 2, 3)}
)  # fmt: skip

TIE: Final = 1e-4
"""How much weights count beside correlations, where some unit never changes."""

Tensors = Mapping[str, Tensor]
Batch = Sequence[Tensor]
"""The arguments of the model, of the shapes that it was traced with."""


@dataclass(slots=True)
class Moments:
    """Running sums over samples: of each unit of two models, and of all pairs.

    float64 (units,), and (units, units) for the products.
    """

    count: int = 0
    sums: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    products: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, one: Tensor, other: Tensor) -> None:
        """Samples more: (units, samples) of both models."""
        both = (one, other)
        sums = [each.double().sum(1) for each in both]
        squares = [each.double().square().sum(1) for each in both]
        if self.count:
            sums = [old + new for old, new in zip(self.sums, sums, strict=True)]
            squares = [old + new for old, new in zip(self.squares, squares, strict=True)]
        self.sums, self.squares = sums, squares
        self.products = self.products + (one @ other.T).double()
        self.count += one.shape[1]

    def correlations(self) -> Tensor:
        """(units, units) float64 in -1..1; zero where a unit never changes."""
        means = [each / self.count for each in self.sums]
        covariance = self.products / self.count - torch.outer(*means)
        variances = [
            (square / self.count - mean.square()).clamp(min=0)
            for square, mean in zip(self.squares, means, strict=True)
        ]
        # What is left of the difference of two sums in float32 is no variance.
        floors = [1e-6 * square / self.count + 1e-30 for square in self.squares]
        alive = [found > floor for found, floor in zip(variances, floors, strict=True)]
        deviations = [found.clamp(min=1e-30).sqrt() for found in variances]
        found = covariance / torch.outer(*deviations)
        return torch.where(torch.outer(*alive), found, torch.zeros(()).double())


def match_activations(
    traced: Traced, groups: Groups, anchor: Tensors, other: Tensors, batches: Iterable[Batch]
) -> Permutation:
    """The order of another model's units in which they do most alike to the anchor's.

    Units that never change, and groups that nothing reads, are matched by weights.

    Args:
        traced: the graph of both; it says of which shapes the batches are.
        groups: of both.
        anchor: parameters and buffers by name.
        other: those of the model to be permuted.
        batches: read once; memory does not depend on how many there are.

    Raises:
        CannotAlign: no batch.
    """
    watch = Watch(traced, groups)
    seen: dict[tuple[Group, str], Moments] = {}
    for batch in batches:
        mine = dict(watch.activations(anchor, batch))
        for key, theirs in watch.activations(other, batch):
            seen.setdefault(key, Moments()).add(mine.pop(key), theirs)
    if not seen:
        raise CannotAlign("matching by activations: found no calibration batch, expected one")
    return matched(groups, seen, anchor, other)


def matched(
    groups: Groups,
    seen: Mapping[tuple[Group, str], Moments],
    anchor: Tensors,
    other: Tensors,
) -> Permutation:
    """Orders from correlations; from weights where those say nothing."""
    permutation = Permutation(groups, {})
    told = {
        group: known for group in groups.groups if (known := _correlations(group, seen)) is not None
    }
    for root in trees_of(groups):
        if any(group in told for group in root.groups):
            found = best_orders(root, lambda group: _pairs(told.get(group)))
            permutation = permutation.with_orders(found)
    for root in trees_of(groups):
        if _decided(root, told):
            continue
        weights = Common(permutation, anchor, other, root)
        permutation = permutation.with_orders(best_orders(root, partial(_by_both, told, weights)))
    return permutation


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Correlations of a group's units, (path..., path...), added over all who read it.

    Attributes:
        complete: every unit of both models changes somewhere.
    """

    pairs: Pairs
    complete: bool


def _correlations(group: Group, seen: Mapping[tuple[Group, str], Moments]) -> Told | None:
    found = [moments.correlations() for (each, _), moments in seen.items() if each is group]
    if not found:
        return None
    total = torch.stack(found).sum(0)
    complete = bool((total != 0).any(0).all() and (total != 0).any(1).all())
    sizes = (*group.orders, group.size)
    return Told(total.reshape(*sizes, *sizes).numpy(), complete)


def _decided(root: Tree, told: Mapping[Group, Told]) -> bool:
    """Whether correlations alone say how all groups of a tree are matched."""
    leaves = [
        group for group in root.groups if all(group.leaf not in g.within for g in root.groups)
    ]
    return all(group in told and told[group].complete for group in leaves)


def _pairs(told: Told | None) -> Pairs | None:
    return None if told is None else told.pairs


def _by_both(told: Mapping[Group, Told], common: Common, group: Group) -> Pairs | None:
    return _both(told.get(group), common(group))


def _both(told: Told | None, weights: Pairs | None) -> Pairs | None:
    """Correlations, and weights that decide between units for which those are equal."""
    if told is None or weights is None:
        return weights if told is None else told.pairs
    return told.pairs + TIE * weights / max(float(np.abs(weights).max()), 1e-30)


class Watch:
    """Runs the graph of a model, and looks at what contractions read."""

    def __init__(self, traced: Traced, groups: Groups) -> None:
        self._traced, self._groups = traced, groups
        graph = traced.program.graph
        self._sites = {
            source
            for node in graph.nodes
            if node.op == "call_function" and operator_name(node) in READERS
            for source in node.all_input_nodes
            if source.op == "call_function" and len(shapes_of(source)) == 1
        }
        self._by_leaf = {group.leaf: group for group in groups.groups}

    def activations(
        self, tensors: Tensors, batch: Batch
    ) -> Iterator[tuple[tuple[Group, str], Tensor]]:
        """For each site and each group that is the innermost there: (units, samples)."""
        runner = _Runner(self._traced.program.graph_module, self._sites)
        with torch.no_grad():
            runner.run(*self._arguments(tensors, iter(batch)))
        for node, value in runner.seen:
            yield from self._of_site(node, value)

    def _arguments(self, tensors: Tensors, given: Iterator[Tensor]) -> Iterator[Tensor]:
        """Of the graph: the model's tensors and constants, then what it is called with."""
        program, tied = self._traced.program, self._traced.tied
        for spec in program.graph_signature.input_specs:
            name = spec.target or ""
            if spec.kind is InputKind.USER_INPUT:
                yield next(given)
            elif tied.get(name, name) in tensors:
                yield tensors[tied.get(name, name)]
            else:
                # Constants, and buffers that no file holds.
                yield program.constants[name]

    def _of_site(self, node: Node, value: Tensor) -> Iterator[tuple[tuple[Group, str], Tensor]]:
        layout = self._traced.values[node]
        if isinstance(layout, list):
            return
        for place, (piece, _, leaves) in enumerate(pieces(self._groups, value, value, layout)):
            for group in self._innermost(leaves):
                yield (group, f"{node.name}.{place}"), rows(piece, leaves, group).float()

    def _innermost(self, leaves: Sequence[Units]) -> Iterator[Group]:
        """Groups of a piece that no other one of it lies within."""
        found = [self._by_leaf[leaf] for leaf in dict.fromkeys(leaves) if leaf in self._by_leaf]
        outer = {leaf for group in found for leaf in group.within}
        for group in found:
            if group.leaf not in outer and leaves.count(group.leaf) == 1:
                yield group


class _Runner(Interpreter):
    """Keeps what some nodes make."""

    def __init__(self, module: torch.fx.GraphModule, sites: set[Node]) -> None:
        super().__init__(module)
        self._wanted = sites
        self.seen: list[tuple[Node, Tensor]] = []

    def run_node(self, n: Node) -> object:
        """Run it; keep the result if it is wanted."""
        result = super().run_node(n)
        if n in self._wanted:
            self.seen.append((n, result))
        return result
