"""What names a schedule: a run's sections `topology` and `schedule`, as plain values."""

from dataclasses import dataclass

from weft.topology.options import Scalar
from weft.topology.weights import OWN

DRIFT = "drift"
"""The option of every graph that declares that the average may drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleParams:
    """Who, when and how much, by name.

    Attributes:
        graph: a name of `weft.topology.families.GRAPHS`.
        graph_options: its options, (name, value) each; and `drift`, see `check`.
        weights: a name of `weft.topology.weights.RULES`, or "own": those that come
            with the graph, Metropolis where none do.
        schedule: a name of `weft.topology.timings.TIMINGS`.
        schedule_options: its options.
    """

    graph: str = "ring"
    graph_options: tuple[tuple[str, Scalar], ...] = ()
    weights: str = OWN
    schedule: str = "every"
    schedule_options: tuple[tuple[str, Scalar], ...] = ()

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"graph {self.graph}, weights {self.weights}, schedule {self.schedule}"
