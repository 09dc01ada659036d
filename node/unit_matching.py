"""Models brought into the order of another one's units: the torch side of `merge.align`.

A model is traced once; what its units are holds for every checkpoint of it. Everything
is done on the CPU and without chance: the same files and batches give the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.writer import SafetensorsWriter
from weft.merging.alignment.activations import matched
from weft.merging.alignment.groups import Groups
from weft.merging.alignment.observation import observed
from weft.merging.alignment.overrides import Overrides, overridden_groups
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.tracing import trace
from weft.merging.alignment.weights import match_weights
from weft.node.calibration import arguments_of
from weft.node.trainer import Batch
from weft.node.training_messages import AlignRequest, UnitFacts
from weft.protocol.run import Align

NO_OVERRIDES: Final = Overrides()
CPU: Final = torch.device("cpu")

Tensors = Mapping[str, Tensor]
Arguments = tuple[Tensor, ...]
"""What a graph is called with: those by place, then those by name."""


class Matcher:
    """Matches and permutes checkpoints of one model.

    Args:
        model: traced, not kept; moved to the CPU.
        first: a batch of the trainer's calibration data: the graph is of its shapes.
        overrides: what its owner knows of its units beyond the graph.

    Raises:
        CannotAlign: torch cannot trace the model, or it has no group that the overrides
            name; says why.
        BadBatch: a batch that a model cannot be called with.
    """

    def __init__(self, model: nn.Module, first: Batch, overrides: Overrides = NO_OVERRIDES) -> None:
        inputs, keywords = arguments_of(first, CPU)
        self._traced = trace(model.to(CPU), inputs, keywords)
        self._groups: Groups = overridden_groups(self._traced, overrides)
        self._parameters = frozenset(name for name, _ in model.named_parameters())

    def facts(self) -> UnitFacts:
        """What can change places."""
        found = self._groups.groups
        return UnitFacts(
            groups=len(found),
            units=sum(group.units for group in found),
            unruled=tuple(sorted(self._traced.unruled)),
        )

    def align(self, request: AlignRequest, batches: Iterable[Batch]) -> list[float | None]:
        """Write models in the order of an anchor's units.

        Args:
            request: which; every model keeps its names, shapes and metadata.
            batches: the node's own calibration data; not read where weights are matched.

        Returns:
            For each model the share of its units that changed places; None, and no file,
            where what it computes overflows, so that it cannot be matched.

        Raises:
            CannotAlign: no batch of the shapes that were traced.
        """
        with ExitStack() as stack:
            anchor = stack.enter_context(open_checkpoint(request.anchor))
            models = [stack.enter_context(open_checkpoint(path)) for path in request.models]
            orders = self._orders(
                request.how, self._tensors(anchor), [self._tensors(one) for one in models], batches
            )
            moved: list[float | None] = []
            for find, model, out in zip(orders, models, request.out, strict=True):
                try:
                    found = find()
                except ValueError:  # of the assignment: a score that is no finite number
                    moved.append(None)
                    continue
                _write(found, model, out)
                moved.append(found.moved)
            return moved

    def _orders(
        self, how: Align, anchor: Tensors, others: Sequence[Tensors], batches: Iterable[Batch]
    ) -> list[Callable[[], Permutation]]:
        """How to find the order of each model; the anchor is run once for all."""
        if not self._groups.groups:
            return [partial(Permutation.identity, self._groups) for _ in others]
        if how == "weights":
            mine = self._learnt(anchor)
            return [partial(match_weights, self._groups, mine, self._learnt(o)) for o in others]
        seen = observed(self._traced, self._groups, anchor, others, of_one_shape(batches))
        return [
            partial(matched, self._groups, each, anchor, other)
            for each, other in zip(seen, others, strict=True)
        ]

    def _learnt(self, tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if name in self._parameters}

    def _tensors(self, reader: TensorReader) -> Tensors:
        """Of a checkpoint, under the names that the graph has for tied ones."""
        tied = self._traced.tied
        return {tied.get(name, name): reader.read(name) for name in reader.schema.names}


def of_one_shape(batches: Iterable[Batch]) -> Iterator[Arguments]:
    """Batches cut anew to the shapes of the first one, which a graph is traced with.

    What is left over at the end, and samples of another shape, are left out.
    """
    first: Arguments | None = None
    held: Arguments = ()
    for batch in batches:
        inputs, keywords = arguments_of(batch, CPU)
        found = (*inputs, *keywords.values())
        if first is None:
            first = found
        if not _fits(found, first):
            continue
        held = found if not held else tuple(map(_joined, held, found))
        size = first[0].shape[0]
        while held and held[0].shape[0] >= size:
            yield tuple(each[:size] for each in held)
            held = tuple(each[size:] for each in held) if held[0].shape[0] > size else ()


def _fits(found: Arguments, first: Arguments) -> bool:
    """Whether samples of both can stand in one batch: as many arguments, alike but in number."""
    if len(found) != len(first) or any(each.dim() == 0 for each in (*found, *first)):
        return found is first
    alike = all(
        one.shape[1:] == other.shape[1:] and one.dtype == other.dtype
        for one, other in zip(found, first, strict=True)
    )
    return alike and len({each.shape[0] for each in found}) == 1


def _joined(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other])


def _write(permutation: Permutation, reader: TensorReader, out: Path) -> None:
    """A checkpoint in the new order, tensor by tensor."""
    with SafetensorsWriter(out, reader.schema, dict(reader.metadata)) as writer:
        for spec in reader.schema:
            moved = permutation.applied({spec.name: reader.read(spec.name)})
            writer.write(spec.name, moved[spec.name].contiguous())
