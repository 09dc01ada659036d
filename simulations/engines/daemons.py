"""The daemons engine: a study's rounds by real nodes and a coordinator on this machine.

For fidelity: whether the other engines say what daemons do. The run is over before its
first moment is told, since only then may the nodes' journals be read; whoever calls
brings the reader, as journals are the nodes' own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weft.simulations.demo.daemons import fleet
from weft.simulations.demo.outcome import Happened, Story, Tensors
from weft.simulations.demo.performance import perform
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.demo.stage import clear
from weft.simulations.engines.crew import Looped
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet, Layout, parameters_of
from weft.simulations.references import initial_model
from weft.simulations.study import Accuracies, Moment, sum_of_squares


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What daemons wrote down and kept, once they have ended.

    Attributes:
        stories: one a node, in the order of the settings' names.
        model_of: (node, `Happened.model`) -> the model as it was trained.
        size_of: (node, digest) -> bytes of an artifact.
    """

    stories: Sequence[Story]
    model_of: Callable[[str, str], Tensors]
    size_of: Callable[[str, str], int]


Recall = Callable[[DemoFolder, DemoSettings], Recalled]


class Daemons:
    """A study that real daemons carry out, under the policy `wait`, with plain averaging.

    Args:
        settings: who, how they are joined, for how long, and what they learn.
        folder: where daemons keep what they have; made anew.
        recall: reads it when they have ended.
    """

    def __init__(self, settings: DemoSettings, folder: DemoFolder, recall: Recall) -> None:
        self._settings, self._folder, self._recall = settings, folder, recall

    def moments(self, evaluated: Callable[[int], bool] = lambda _: True) -> Iterator[Moment]:
        """Run all rounds, then tell of each.

        Args:
            evaluated: of which rounds accuracies are told.

        Raises:
            DaemonDied: a daemon ended before its time.
            BadOption: the folder holds what no demo wrote.
        """
        memory = self.remembered()
        for round in range(self._settings.rounds):
            yield memory.moment(round, evaluated(round))

    def remembered(self) -> "Memory":
        """Run all rounds; what the daemons remember of them."""
        clear(self._folder)
        with fleet() as daemons:
            perform(self._settings, self._folder, daemons)
        return Memory(self._settings, self._recall(self._folder, self._settings))


class Memory:
    """The rounds of a run that is over, as rows of models.

    Args:
        settings: of the run.
        recalled: what its nodes wrote down.
    """

    def __init__(self, settings: DemoSettings, recalled: Recalled) -> None:
        self._settings, self._recalled = settings, recalled
        self._places = {name: place for place, name in enumerate(settings.names)}

    def trained(self, round: int) -> Tensor:
        """(nodes, P) float32: each node's model after training in a round, as it published it."""
        return torch.stack(
            [
                self._layout.vector(dict(self._recalled.model_of(story.node, done.model)))
                for story, done in self._of(round)
            ]
        )

    def mixing(self, round: int) -> Tensor:
        """(nodes, nodes) float64: W as the nodes applied it, missed edges given to self."""
        weights = torch.zeros(self._settings.nodes, self._settings.nodes, dtype=torch.float64)
        for story, done in self._of(round):
            total = sum(done.weights.values())
            for sender, weight in done.weights.items():
                weights[self._places[story.node], self._places[sender]] = weight / total
        return weights

    def moment(self, round: int, evaluated: bool = True) -> Moment:
        """What was seen of a round.

        Accuracies are the nodes' own; bytes are those of the contributions as they travelled,
        compressed. What the mean of all models would score is measured here.
        """
        trained = self.trained(round)
        mixed = (self.mixing(round) @ trained.double()).float()
        before, after = Here().mean(trained), Here().mean(mixed)
        happened = [done for _, done in self._of(round)]
        sizes = self._sizes(round)
        return Moment(
            round=round,
            loss=sum(float("nan") if one.loss is None else one.loss for one in happened)
            / len(happened),
            messages=len(sizes),
            bytes=float(sum(sizes)),
            trained=_distance(trained, before),
            mixed=_distance(mixed, after),
            accuracies=self._accuracies(happened, after.float()) if evaluated else None,
            drift=(after - before).norm().item(),
        )

    def _of(self, round: int) -> list[tuple[Story, Happened]]:
        return [(story, story.rounds[round]) for story in self._recalled.stories]

    def _sizes(self, round: int) -> list[int]:
        """Bytes of each contribution that a node took from another."""
        return [
            self._recalled.size_of(sender, digest)
            for story, done in self._of(round)
            for sender, digest in done.parents.items()
            if sender != story.node
        ]

    def _accuracies(self, happened: Sequence[Happened], mean: Tensor) -> Accuracies:
        own = [float("nan") if one.accuracy is None else one.accuracy for one in happened]
        return Accuracies(
            mean=sum(own) / len(own), worst=min(own), best=max(own), merged=self._crew.score(mean)
        )

    @cached_property
    def _crew(self) -> Looped:
        """Measures the mean of all models, on all nodes' data."""
        task = self._settings.task
        trainers = [task.trainer(node) for node in range(task.nodes)]
        model = initial_model(trainers[0], task.seed)
        return Looped(Fleet.alike(model, range(task.nodes)), trainers, task.seed)

    @cached_property
    def _layout(self) -> Layout:
        return parameters_of(self._settings.task.trainer(0).model())


def _distance(rows: Tensor, mean: Tensor) -> float:
    return float((sum_of_squares(rows, mean).sum() / len(rows)).sqrt())
