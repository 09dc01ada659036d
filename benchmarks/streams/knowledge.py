"""What a stream's constant state knows of the task vectors that went into it."""

import math
from collections.abc import Mapping

from torch import Tensor


class Knowledge:
    """Counts, norms and the running sum of all task vectors of a stream."""

    def __init__(self) -> None:
        self.count = 0
        self.norms = 0.0
        self.squares = 0.0
        self.last = 0.0
        self.total: dict[str, Tensor] = {}

    def add(self, deltas: Mapping[str, Tensor]) -> None:
        """One task vector more."""
        square = sum(float(value.double().square().sum()) for value in deltas.values())
        self.last = math.sqrt(square)
        self.count += 1
        self.norms += self.last
        self.squares += square
        for name, value in deltas.items():
            self.total[name] = self.total[name] + value if name in self.total else value.clone()

    @property
    def mean_norm(self) -> float:
        """Of the task vectors."""
        return self.norms / self.count

    @property
    def overlap(self) -> float:
        """|sum|^2 over the sum of squares: 1 for orthogonal task vectors, n for equal ones."""
        square = sum(float(value.double().square().sum()) for value in self.total.values())
        return square / self.squares if self.squares > 0 else 1.0
