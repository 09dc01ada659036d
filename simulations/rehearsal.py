"""A run in one process: the trainer, a schedule, plain averaging; no daemon, no wire.

Says beforehand what a demo will show: which accuracy the merges reach, and how
far the nodes drift apart. The matrices are those of the daemons' own schedules.

>>> from weft.simulations.references import TaskOptions
>>> from weft.topology.schedules import ScheduleParams
>>> outcome = rehearse(TaskOptions(), ScheduleParams(graph="ring"), rounds=20)  # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weft.simulations.references import (
    TaskOptions,
    accuracy,
    consensus_distance,
    initial_model,
    mean_tensors,
)
from weft.topology.matrices import Mixing
from weft.topology.schedules import ScheduleParams, build_schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came out; accuracies are fractions.

    Attributes:
        merged: for each round, each node's accuracy after its merge.
        distances: for each round, the consensus distance before and after it.
        final: the accuracy of the global merge.
    """

    merged: list[list[float]]
    distances: list[tuple[float, float]]
    final: float


def rehearse(options: TaskOptions, params: ScheduleParams, *, rounds: int) -> Rehearsal:
    """Train and merge all nodes in turn, then merge once globally."""
    trainers = [options.trainer(node) for node in range(options.nodes)]
    models = [initial_model(trainer, options.seed) for trainer in trainers]
    schedule = build_schedule(params, nodes=options.nodes, rounds=rounds, seed=options.seed)
    merged, distances = [], []
    for round in range(rounds):
        for trainer, model in zip(trainers, models, strict=True):
            trainer.train(model, round)
        before = consensus_distance(_states(models))
        _mix(models, schedule.mixing(round))
        distances.append((before, consensus_distance(_states(models))))
        merged.append([trainers[0].evaluate(model)["accuracy"] for model in models])
    final = accuracy(trainers[0], mean_tensors(_states(models)))
    return Rehearsal(merged=merged, distances=distances, final=final)


def _states(models: Sequence[nn.Module]) -> list[dict[str, Tensor]]:
    return [dict(model.state_dict()) for model in models]


def _mix(models: Sequence[nn.Module], mixing: Mixing) -> None:
    """Every model becomes its row's weighted mean of all models as they were."""
    before = [{name: t.clone() for name, t in state.items()} for state in _states(models)]
    for node, model in enumerate(models):
        row = mixing.row(node)
        model.load_state_dict(
            {
                name: _weighted([(before[sender][name], weight) for sender, weight in row])
                if tensor.is_floating_point()
                else tensor
                for name, tensor in before[node].items()
            }
        )


def _weighted(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = torch.zeros_like(terms[0][0], dtype=torch.float64)
    for tensor, weight in terms:
        total += weight * tensor.double()
    return total.to(terms[0][0].dtype)
