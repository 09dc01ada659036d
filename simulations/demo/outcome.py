"""What a demo found out: from what its nodes wrote down and what they published.

Pure but for reading models: `stories` come from the nodes' journals, models
through a callable. Accuracies are fractions of the shared test set.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from weft.simulations.demo.settings import DemoSettings
from weft.simulations.references import (
    central,
    consensus_distance,
    counterfactual,
    local_only,
)

Tensors = Mapping[str, Tensor]
Edge = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One round of one node, as its journal has it.

    Attributes:
        model: where the trained model lies: what the node published, or its own file
            where nobody asked for it.
        weights: its row of W as it was applied, itself included.
        parents: digests of what was merged, by node.
        missed: edges that were not used, and why.
        loss: of training; None where it was not measured.
        accuracy: after the merge.
    """

    model: str
    weights: Mapping[str, float]
    parents: Mapping[str, str] = field(default_factory=dict)
    missed: Mapping[str, str] = field(default_factory=dict)
    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One node's life: its rounds in order, and its end."""

    node: str
    rounds: Sequence[Happened]
    result: str
    accuracy: float
    contributors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes on the wire, by node, as the nodes last reported."""

    sent: Mapping[str, int]
    received: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a demo found out.

    Attributes:
        stories: the nodes' own words.
        alone: for each node, its accuracy after each round without any merge.
        together: the accuracy after each round of one model that sees all data.
        counterfactual: what the mean of all contributions to a round scores.
        before, after: the consensus distance before and after each round's merges.
        edge_bytes: artifact bytes that travelled, by (sender, receiver).
        traffic: all bytes on the wire.
        seconds: from the first process to the last result.
    """

    stories: Sequence[Story]
    alone: Sequence[Sequence[float]]
    together: Sequence[float]
    counterfactual: Sequence[float]
    before: Sequence[float]
    after: Sequence[float]
    edge_bytes: Mapping[Edge, int]
    traffic: Traffic
    seconds: float

    @property
    def local_only(self) -> list[float]:
        """Each node's accuracy at the end, had it trained alone."""
        return [curve[-1] for curve in self.alone]

    @property
    def neighbour_merged(self) -> list[float]:
        """Each node's accuracy after its last merge with neighbours."""
        return [story.rounds[-1].accuracy or 0.0 for story in self.stories]

    @property
    def global_merged(self) -> list[float]:
        """Each node's accuracy after the global merge: one model, one figure."""
        return [story.accuracy for story in self.stories]

    @property
    def agreed(self) -> bool:
        """Whether all nodes ended with one digest."""
        return len({story.result for story in self.stories}) == 1

    @property
    def missed_edges(self) -> int:
        """Edges that carried nothing, over all nodes and rounds."""
        return sum(len(done.missed) for story in self.stories for done in story.rounds)

    @property
    def adopted_share(self) -> float | None:
        """The share of edges whose contribution was merged; None where there was none."""
        used = sum(
            len(set(done.parents) - {story.node}) for story in self.stories for done in story.rounds
        )
        met = used + self.missed_edges
        return used / met if met else None

    def document(self) -> dict[str, object]:
        """The figures as JSON values."""
        names = [story.node for story in self.stories]
        return {
            "nodes": names,
            "local_only": statistics.fmean(self.local_only),
            "local_only_by_node": self.local_only,
            "neighbour_merged": statistics.fmean(self.neighbour_merged),
            "neighbour_merged_by_node": self.neighbour_merged,
            "counterfactual_by_round": list(self.counterfactual),
            "global_merged": statistics.fmean(self.global_merged),
            "global_merged_by_node": self.global_merged,
            "central": self.together[-1],
            "consensus_distance_before": list(self.before),
            "consensus_distance_after": list(self.after),
            "bytes_sent": sum(self.traffic.sent.values()),
            "bytes_sent_by_node": [self.traffic.sent.get(name, 0) for name in names],
            "bytes_received_by_node": [self.traffic.received.get(name, 0) for name in names],
            "merged_digest": self.stories[0].result if self.agreed else None,
            "missed_edges": self.missed_edges,
            "adopted_share": self.adopted_share,
            "seconds": self.seconds,
        }


def examine(
    settings: DemoSettings,
    stories: Sequence[Story],
    *,
    model_of: Callable[[str, str], Tensors],
    size_of: Callable[[str, str], int],
    traffic: Traffic,
    seconds: float,
) -> Outcome:
    """Work out everything that the report shows; trains the references.

    Args:
        settings: the demo.
        stories: one a node, in the order of the settings' names.
        model_of: (node, `Happened.model`) -> the trained model.
        size_of: (node, digest) -> bytes of an artifact.
        traffic: bytes on the wire.
        seconds: how long the run took.
    """
    judge = settings.task.trainer(0)
    before, after, means = [], [], []
    for round in range(settings.rounds):
        models = {s.node: model_of(s.node, s.rounds[round].model) for s in stories}
        before.append(consensus_distance(list(models.values())))
        mixed = [mixed_model(models, story.rounds[round].weights) for story in stories]
        after.append(consensus_distance(mixed))
        means += counterfactual(judge, [list(models.values())])
    return Outcome(
        stories=stories,
        alone=local_only(settings.task, rounds=settings.rounds),
        together=central(settings.task, rounds=settings.rounds),
        counterfactual=means,
        before=before,
        after=after,
        edge_bytes=edge_bytes(stories, size_of),
        traffic=traffic,
        seconds=seconds,
    )


def mixed_model(models: Mapping[str, Tensors], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The weighted mean of the models that a row of W names, in float64."""
    total = sum(weights.values())
    first = models[next(iter(weights))]
    mixed = {}
    for name, tensor in first.items():
        if tensor.is_floating_point():
            terms = (models[node][name].double() * (w / total) for node, w in weights.items())
            mixed[name] = sum(terms, start=tensor.new_zeros(tensor.shape).double())
    return mixed


def edge_bytes(stories: Sequence[Story], size_of: Callable[[str, str], int]) -> dict[Edge, int]:
    """Bytes of the contributions that each node took from each other, over all rounds."""
    moved: dict[Edge, int] = {}
    for story in stories:
        for done in story.rounds:
            for sender, digest in done.parents.items():
                if sender != story.node:
                    edge = (sender, story.node)
                    moved[edge] = moved.get(edge, 0) + size_of(sender, digest)
    return moved
