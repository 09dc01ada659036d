"""The stacked engine: many nodes' models trained by one call, for a device with many lanes.

The rows of a fleet are seen as tensors with a dimension more, one model a node, and
`torch.func.vmap` carries a step of one model over to all of them. On a CPU that is a loss
for convolutions; there the engine is of use to see that it agrees.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.dropout import _DropoutNd as Dropout

from weft.node.calibration import Moments
from weft.node.trainer import Trainer
from weft.simulations.engines.aligner import Alignment, Merge
from weft.simulations.engines.batch_norms import (
    PooledMoments,
    Seen,
    Watch,
    check_norms,
    follow,
    watching,
)
from weft.simulations.engines.crew import Looped, check_finite
from weft.simulations.engines.examples import Pool, shared_rate, stackable
from weft.simulations.engines.fleet import Fleet, parameters_of, statistics_of
from weft.simulations.errors import BadModel, BadOption
from weft.simulations.tasks.optimizers import Optimizer, build_optimizer

CHUNK = 64
"""Nodes that train at a time."""
EXAMPLES = 4096
"""Examples that are evaluated or calibrated with at a time, over all nodes together."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Nodes that train together.

    Attributes:
        places: their rows.
        rows: (nodes, P), a view of the fleet's.
        optimizer: of the rows; its state is (nodes, P) as well.
    """

    places: slice
    rows: nn.Parameter
    optimizer: Optimizer


class Stacked:
    """A crew whose nodes train together, some at a time; equal to `Looped` to rounding.

    Deterministic, and no random number is drawn. An optimizer's state is kept here, a
    row a node, and not in the trainers.

    Args:
        fleet: the rows, on the device that trains.
        trainers: one a node, in the rows' order, alike but for their examples.
        seed: of the study; nothing is drawn from it here.
        chunk: nodes at a time; it bounds the memory of a step.

    Raises:
        BadOption: trainers that do not say what they do, or not the same.
        BadModel: a model with dropout, or with a BatchNorm that counts its batches.
    """

    def __init__(
        self, fleet: Fleet, trainers: Sequence[Trainer], seed: int, *, chunk: int = CHUNK
    ) -> None:
        if chunk < 1:
            raise BadOption(f"chunk = {chunk}; expected at least 1 node at a time")
        self.fleet = fleet
        self._trainers = stackable(trainers)
        self._device = fleet.parameters.device
        self._model = self._trainers[0].model().to(self._device)
        _check_model(self._model)
        self._parameters, self._statistics = parameters_of(self._model), statistics_of(self._model)
        self._pool = Pool.of(self._trainers, self._device)
        self._test = [part.to(self._device) for part in self._trainers[0].test]
        self._chunk = chunk
        self.reset_optimizers()
        # One model that nobody holds gains nothing from stacking.
        self._single = Looped(fleet, trainers, seed)

    def train(self, round: int) -> Tensor:
        """Train every node's model for one round, in place; (nodes,) float64 mean losses.

        Raises:
            BadOption: trainers with different learning rates, steps or batches.
            Diverged: a model that is not finite; names node and round.
        """
        rate = shared_rate(self._trainers, round)
        batches = self._pool.batches(self._trainers, round)
        losses = torch.zeros(len(self._trainers), dtype=torch.float64)
        self._model.train()
        # What a layer keeps of a training step: float32, the variance unbiased.
        with watching(self._model, correction=1, dtype=torch.float32) as watch:
            for block in self._blocks:
                total = self._train(block, batches[block.places], rate, watch)
                losses[block.places] = total.cpu() / batches.shape[1]
                self._check(block, round)
        return losses

    def re_estimate(self) -> None:
        """Measure running statistics again, each node on its own data; nothing where none are.

        Raises:
            Diverged: a layer saw what is not finite; names node and layer.
        """
        if not self._statistics.size:
            return
        moments = PooledMoments(len(self._trainers))
        self._model.eval()
        with torch.no_grad(), watching(self._model, correction=0, dtype=torch.float64) as watch:
            for places, inputs in self._calibration():
                seen = vmap(self._seeing(watch))(*self._tensors(places), inputs)
                moments.add(places, seen, watch.counts)
        moments.write(self._statistics.views(self.fleet.statistics), self.fleet.nodes)

    def evaluate(self) -> Tensor:
        """(nodes,) float64: each model's accuracy, a fraction, on the shared test set."""
        self._model.eval()
        with torch.no_grad():
            return torch.cat([self._accuracies(block.places) for block in self._blocks])

    def score(self, parameters: Tensor) -> float:
        """The accuracy of one model (P,) that no node holds; no node's state is touched.

        Its running statistics are measured over the data of all nodes of this crew.
        """
        return self._single.score(parameters.to(self._device))

    def moments(self, parameters: Tensor) -> dict[str, Moments]:
        """What each BatchNorm layer of a model (P,) sees over the data of this crew's nodes."""
        return self._single.moments(parameters.to(self._device))

    def score_with(self, parameters: Tensor, moments: Mapping[str, Moments]) -> float:
        """The accuracy of a model (P,) with running statistics from moments."""
        return self._single.score_with(parameters.to(self._device), moments)

    def merged(self, merges: Sequence[Merge], how: Alignment) -> tuple[Tensor, Tensor]:
        """Merges of aligned models, see `weft.simulations.engines.aligner.Aligns`."""
        return self._single.merged(merges, how)

    def reset_optimizers(self) -> None:
        """Let every node go on with a new optimizer."""
        starts = range(0, len(self._trainers), self._chunk)
        self._blocks = [self._block(start) for start in starts]

    def close(self) -> None:
        """Nothing is held."""

    def _block(self, start: int) -> Block:
        places, first = slice(start, start + self._chunk), self._trainers[0]
        rows = nn.Parameter(self.fleet.parameters[places])
        holder = nn.ParameterDict({"rows": rows})
        optimizer = build_optimizer(first.optimizer, holder, {}, momentum=first.momentum)
        return Block(places, rows, optimizer)

    def _train(self, block: Block, batches: Tensor, rate: float, watch: Watch) -> Tensor:
        """(nodes,) float64: the sums of the losses over the round's steps."""
        parameters, statistics = self._tensors(block.places)
        gradients_of = vmap(grad(self._losing(watch), has_aux=True))
        total = torch.zeros(len(batches), dtype=torch.float64, device=self._device)
        for chosen in batches.unbind(1):
            inputs, labels = self._pool.inputs[chosen], self._pool.labels[chosen]
            gradients, (losses, seen) = gradients_of(parameters, statistics, inputs, labels)
            flat = [gradients[name].flatten(1) for name in self._parameters.names]
            block.rows.grad = torch.cat(flat, dim=1)
            block.optimizer.step(rate)
            follow(self._model, statistics, seen)
            total += losses
        return total

    def _losing(self, watch: Watch) -> Callable[..., tuple[Tensor, tuple[Tensor, Seen]]]:
        """Of one node: the loss to differentiate, then the loss and what layers saw."""

        def losing(
            parameters: Tensors, statistics: Tensors, inputs: Tensor, labels: Tensor
        ) -> tuple[Tensor, tuple[Tensor, Seen]]:
            outputs = functional_call(self._model, {**parameters, **statistics}, (inputs,))
            loss = self._trainers[0].loss(outputs, labels)
            return loss, (loss, watch.taken())

        return losing

    def _seeing(self, watch: Watch) -> Callable[[Tensors, Tensors, Tensor], Seen]:
        """Of one node: what layers see of a batch."""

        def seeing(parameters: Tensors, statistics: Tensors, inputs: Tensor) -> Seen:
            functional_call(self._model, {**parameters, **statistics}, (inputs,))
            return watch.taken()

        return seeing

    def _accuracies(self, places: slice) -> Tensor:
        tensors = self._tensors(places)
        nodes = len(self.fleet.parameters[places])

        def outputs_of(parameters: Tensors, statistics: Tensors, inputs: Tensor) -> Tensor:
            found: Tensor = functional_call(self._model, {**parameters, **statistics}, (inputs,))
            return found

        right = torch.zeros(nodes, dtype=torch.float64, device=self._device)
        part = max(1, EXAMPLES // nodes)
        inputs, labels = self._test
        for some, expected in zip(
            torch.split(inputs, part), torch.split(labels, part), strict=True
        ):
            outputs = vmap(outputs_of, in_dims=(0, 0, None))(*tensors, some)
            right += (outputs.argmax(dim=-1) == expected).flatten(1).sum(dim=1)
        return (right / labels.numel()).cpu()

    def _calibration(self) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of one shape, and whose they are; each node's own come in their order."""
        for batches in zip_longest(*(trainer.calibration() for trainer in self._trainers)):
            alike: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
            for place, batch in enumerate(batches):
                if batch is not None:
                    alike[batch[0].shape].append((place, batch[0]))
            for shape, held in alike.items():
                for some in _cut(held, max(1, EXAMPLES // shape[0])):
                    inputs = torch.stack([batch for _, batch in some])
                    yield [place for place, _ in some], inputs.to(self._device)

    def _tensors(self, places: slice | list[int]) -> tuple[Tensors, Tensors]:
        """Parameters and statistics by name, (nodes, ...); views where places are a slice."""
        return (
            self._parameters.views(self.fleet.parameters[places]),
            self._statistics.views(self.fleet.statistics[places]),
        )

    def _check(self, block: Block, round: int) -> None:
        finite = torch.isfinite(block.rows.detach()).all(dim=1)
        if not finite.all():
            place = int(finite.int().argmin())
            node = self.fleet.nodes[block.places][place]
            check_finite(block.rows.detach()[place], node, round)


def _cut(held: list[tuple[int, Tensor]], most: int) -> Iterator[list[tuple[int, Tensor]]]:
    return (held[start : start + most] for start in range(0, len(held), most))


def _check_model(model: nn.Module) -> None:
    check_norms(model)
    for name, layer in model.named_modules():
        if isinstance(layer, Dropout) and layer.p > 0:
            raise BadModel(
                f"layer {name}: dropout draws random numbers, which the stacked engine cannot "
                "draw as nodes one by one would; set p = 0 or take 'local'"
            )
