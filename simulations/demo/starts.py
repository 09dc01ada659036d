"""A demo of different starts: the same run without alignment and with it.

Each node trains alone, from a model of its own, until the last round ends with one
exchange with its neighbours; the global merge follows. Networks that started apart have
their units in other orders: what their mean computes is noise until units are aligned.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from weft.protocol.run import Align
from weft.simulations.demo.outcome import Story
from weft.simulations.demo.settings import DemoSettings

COMPARED: Final[tuple[Align, ...]] = ("none", "activations")

DEEP: Final = "layers=3, hidden=64"
"""Of the perceptron: with a single wide layer the digits forgive even the plain mean."""


def apart(settings: DemoSettings, align: Align) -> DemoSettings:
    """The same demo from different starts, aligned or not."""
    task = settings.task
    if task.model == "mlp" and not task.model_options:
        task = replace(task, model_options=DEEP)
    options = settings.schedule_options
    if settings.schedule == "every" and not options:
        options = (("k", settings.rounds),)
    return replace(settings, apart=True, align=align, schedule_options=options, task=task)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended; accuracies are fractions of the shared test set, by node.

    Attributes:
        align: how its nodes aligned.
        alone: a round before the last one.
        neighbour_merged: after the last round.
        global_merged: of the globally merged model, which all have.
        result: its digest; None where the nodes have not one.
        seconds: that the run took.
    """

    align: Align
    alone: Sequence[float]
    neighbour_merged: Sequence[float]
    global_merged: Sequence[float]
    result: str | None
    seconds: float

    @staticmethod
    def of(align: Align, stories: Sequence[Story], seconds: float) -> "Ending":
        """From the nodes' own words."""
        results = {story.result for story in stories}
        return Ending(
            align=align,
            alone=[story.rounds[-2:][0].accuracy or 0.0 for story in stories],
            neighbour_merged=[story.rounds[-1].accuracy or 0.0 for story in stories],
            global_merged=[story.accuracy for story in stories],
            result=results.pop() if len(results) == 1 else None,
            seconds=seconds,
        )

    def document(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "alone": statistics.fmean(self.alone),
            "neighbour_merged": statistics.fmean(self.neighbour_merged),
            "neighbour_merged_by_node": list(self.neighbour_merged),
            "global_merged": statistics.fmean(self.global_merged),
            "merged_digest": self.result,
            "seconds": self.seconds,
        }
