"""Whoever runs studies: one process, or the ranks of several, with what engines need of it."""

from dataclasses import dataclass

from weft.simulations.engines.daemons import Recall
from weft.simulations.engines.meeting import Meeting


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where studies run.

    Attributes:
        meeting: the ranks, for the engine `distributed`; None: one process.
        recall: reads the journals of daemons that have ended, for the engine `daemons`.
    """

    meeting: Meeting | None = None
    recall: Recall | None = None

    @property
    def leads(self) -> bool:
        """Whether this process keeps results and speaks for all."""
        return self.meeting is None or self.meeting.leads


ALONE = Host()
