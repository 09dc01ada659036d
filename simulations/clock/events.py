"""A clock that jumps from event to event; what happens at one moment keeps its order."""

import heapq
import math
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Clock:
    """Virtual seconds since the start of a run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = count()

    def at(self, moment: float, action: Action) -> None:
        """Do something at a moment, not before now; what never comes is never done."""
        if math.isfinite(moment):
            heapq.heappush(self._heap, (max(moment, self.now), next(self._numbers), action))

    @property
    def next_moment(self) -> float:
        """When something is due; infinite where nothing is."""
        return self._heap[0][0] if self._heap else math.inf

    def run(self, moment: float) -> None:
        """Go to a moment and do all that is due by then, in the order in which it was asked for."""
        self.now = moment
        while self._heap and self._heap[0][0] <= moment:
            heapq.heappop(self._heap)[2]()
