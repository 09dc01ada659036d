"""Sums of models whose units are first brought to one order, on a node's own examples.

What a node of an aligned run does with its neighbours' models, here for rows of a fleet.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from weft.merging.alignment.activations import match_neighbours
from weft.merging.alignment.groups import Groups, groups_of
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.tracing import Traced, trace
from weft.merging.alignment.weights import match_weights
from weft.node.calibration import arguments_of
from weft.node.trainer import Batch, Calibrates, Trainer
from weft.simulations.engines.fleet import Fleet, Layout, parameters_of, statistics_of
from weft.simulations.errors import BadModel

LARGEST_BATCH: Final = 64
"""Examples at a time."""

Matching: TypeAlias = Literal["activations", "weights"]

Arguments: TypeAlias = dict[str, Tensor]
"""What a model is called with, by keyword; under `POSITION` without one."""

POSITION: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How units are matched.

    Attributes:
        by: what they do, or what they weigh.
        samples: at most so many of a node's examples, from the first on.
        proxy: all nodes look at the same examples, some of everybody's, which nodes that
            share no data do not have.
        nearer: units stay where they are, all of a model's, unless moving them brings its
            parameters nearer to the anchor's.
    """

    by: Matching
    samples: int
    proxy: bool = False
    nearer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A weighted sum of nodes' models, all of them in one node's order of units.

    Attributes:
        node: on whose examples units are matched.
        anchor: whose order it is.
        terms: nodes and weights.
    """

    node: int
    anchor: int
    terms: tuple[tuple[int, float], ...]


@runtime_checkable
class Aligns(Protocol):
    """A crew that can bring its nodes' models to one order."""

    def merged(self, merges: Sequence[Merge], how: Alignment) -> tuple[Tensor, Tensor]:
        """One merge a node, in the order of the nodes; the fleet stays as it is.

        Returns:
            (nodes, P) float32, and (nodes,) float64: which share of the units of the models
            in a merge, but for the anchor's, changed its place, added up over the models.
        """
        ...


class Aligner:
    """Merges rows of a fleet. The model is traced once for each size of a batch.

    Args:
        model: of all rows; its values do not matter.
        fleet: all rows that take part.
        trainers: by node, on whose examples units are matched.
        how: they are matched.
    """

    def __init__(
        self, model: nn.Module, fleet: Fleet, trainers: Mapping[int, Trainer], how: Alignment
    ) -> None:
        # A copy on the rows' device: a graph keeps the device that it was traced on.
        self._model = deepcopy(model).to(fleet.parameters.device)
        self._fleet, self._trainers, self._how = fleet, trainers, how
        self._parameters, self._statistics = parameters_of(model), statistics_of(model)
        self._traced: dict[int, tuple[Traced, Groups]] = {}

    def merged(self, merge: Merge) -> tuple[Tensor, float]:
        """(P,) float32: the sum, in float64 and rounded once; and the shares that moved.

        Raises:
            BadModel: the node has no examples to match on.
            CannotAlign: the model cannot be traced.
        """
        others = [node for node, _ in merge.terms if node != merge.anchor]
        orders = self._matched(merge, others) if others else {}
        total = torch.zeros_like(self._fleet.parameters[0], dtype=torch.float64)
        for node, weight in merge.terms:
            row = self._fleet.parameters[self._place(node)]
            if node in orders:
                row = row[places(orders[node], self._parameters).to(row.device)]
            total += weight * row.double()
        moved = sum(order.moved for order in orders.values())
        return total.to(self._fleet.parameters.dtype), moved

    def _matched(self, merge: Merge, others: Sequence[int]) -> dict[int, Permutation]:
        batches = self._batches(merge.node)
        traced, groups = self._trace(batches[0])
        anchor, models = self._tensors(merge.anchor), [self._tensors(node) for node in others]
        if self._how.by == "weights":
            learnt = {name: anchor[name] for name in self._parameters.names}
            found = [match_weights(groups, learnt, model) for model in models]
        else:
            inputs = [tuple(batch.values()) for batch in batches]
            found = match_neighbours(traced, groups, anchor, models, inputs)
        return {
            other: order if self._may_move(merge.anchor, other, order) else Permutation(groups, {})
            for other, order in zip(others, found, strict=True)
        }

    def _may_move(self, anchor: int, other: int, order: Permutation) -> bool:
        if not self._how.nearer:
            return True
        mine, theirs = (self._fleet.parameters[self._place(node)] for node in (anchor, other))
        moved = theirs[places(order, self._parameters).to(theirs.device)]
        return bool((moved - mine).norm() < (theirs - mine).norm())

    def _tensors(self, node: int) -> dict[str, Tensor]:
        """Parameters and buffers; those that are no floating point numbers are of the model."""
        place = self._place(node)
        return {
            **dict(self._model.named_buffers()),
            **self._parameters.views(self._fleet.parameters[place]),
            **self._statistics.views(self._fleet.statistics[place]),
        }

    def _place(self, node: int) -> int:
        return node - self._fleet.nodes.start

    def _trace(self, batch: Arguments) -> tuple[Traced, Groups]:
        size = len(next(iter(batch.values())))
        if size not in self._traced:
            inputs = [tensor for name, tensor in batch.items() if name == POSITION]
            keywords = {name: tensor for name, tensor in batch.items() if name != POSITION}
            traced = trace(self._model, inputs, keywords)
            self._traced[size] = traced, groups_of(traced)
        return self._traced[size]

    def _batches(self, node: int) -> list[Arguments]:
        nodes = list(self._trainers) if self._how.proxy else [node]
        most = max(1, self._how.samples // len(nodes))
        whole = joined([examples(self._trainers[each], most) for each in nodes])
        device = self._fleet.parameters.device
        return even_batches({name: tensor.to(device) for name, tensor in whole.items()})


def examples(trainer: Trainer, most: int) -> Arguments:
    """The first examples that a trainer calibrates with, at most so many, in one batch.

    Raises:
        BadModel: it has none.
    """
    found: list[Arguments] = []
    left = most
    for batch in trainer.calibration() if isinstance(trainer, Calibrates) else ():
        found.append({name: tensor[:left] for name, tensor in arguments(batch).items()})
        left -= _count(found[-1])
        if left == 0:
            return joined(found)
    if not found:
        raise BadModel(
            f"{type(trainer).__name__}: found no calibration() that gives a batch, expected one: "
            "units are matched on a node's own examples"
        )
    return joined(found)


def arguments(batch: Batch) -> Arguments:
    """A batch of any of the three forms; raises BadBatch where it is none of them."""
    inputs, keywords = arguments_of(batch, torch.device("cpu"))
    return {POSITION: inputs[0]} if inputs else dict(keywords)


def joined(parts: Sequence[Arguments]) -> Arguments:
    """Batches one after the other, as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def even_batches(whole: Arguments) -> list[Arguments]:
    """Batches of one size, a power of two, which a graph is traced for; a rest is left out.

    >>> [len(batch[POSITION]) for batch in even_batches({POSITION: torch.zeros(25, 3)})]
    [16]
    """
    size = min(LARGEST_BATCH, 1 << (_count(whole).bit_length() - 1))
    return [
        {name: tensor[start : start + size] for name, tensor in whole.items()}
        for start in range(0, _count(whole) - size + 1, size)
    ]


def places(permutation: Permutation, layout: Layout) -> Tensor:
    """(P,) int64: from where in a row each element of the permuted row comes."""
    moved = permutation.applied(layout.views(torch.arange(layout.size)))
    return torch.cat([moved[name].reshape(-1) for name in layout.names])


def _count(whole: Arguments) -> int:
    return len(next(iter(whole.values())))
