"""Runs: one row over one order of arrival with the experts of one seed, scored on the way."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from streams.experts import Workshop
from streams.merge import Row, Running
from streams.statistics import backward_transfer

Deltas = Mapping[str, Mapping[str, Tensor]]
"""Task vectors by task."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one row came to.

    Attributes:
        order: names of tasks as they arrived.
        matrix: row t: accuracies after contribution t on the tasks in this order; None
            where that was not scored. The diagonal and the last row always are, unless
            `transfer` means nothing for the row.
        transfer: backward transfer; None where there is no order.
    """

    row: str
    seed: int
    place: int
    order: Sequence[str]
    matrix: Sequence[Sequence[float | None]]
    transfer: float | None

    @property
    def last(self) -> dict[str, float]:
        """Accuracies at the end, by task."""
        return {
            name: value
            for name, value in zip(self.order, self.matrix[-1], strict=True)
            if value is not None
        }

    @property
    def mean(self) -> float:
        """Of the accuracies at the end."""
        return sum(self.last.values()) / len(self.last)


def orders_of(names: Sequence[str], count: int) -> list[list[str]]:
    """Orders of arrival: the first is the list's own, the others are drawn."""
    found = [list(names)]
    generator = random.Random(0)
    while len(found) < count:
        found.append(generator.sample(list(names), len(names)))
    return found


class Course:
    """One stream with one seed's experts: runs rows, remembers what order cannot change."""

    def __init__(self, shop: Workshop, seed: int) -> None:
        self._shop, self._seed = shop, seed
        self.deltas: dict[str, dict[str, Tensor]] = {}
        for name in shop.names:
            expert = shop.expert([name], seed)
            self.deltas[name] = {key: expert[key] - shop.base[key] for key in expert}
        self._finals: dict[str, dict[str, float]] = {}

    def score(self, merged: Mapping[str, Tensor], names: Sequence[str]) -> list[float]:
        """Accuracies of the base plus a task vector."""
        base = self._shop.base
        self._shop.put({key: base[key] + merged[key] for key in base})
        return [self._shop.accuracy(name) for name in names]

    def run(self, row: Row, order: Sequence[str], place: int, whole: bool) -> Run:
        """One after the other.

        Args:
            row: what merges.
            order: of arrival.
            place: the number of this order.
            whole: score all tasks seen so far after each contribution, not the newest
                alone.
        """
        running = Running(row, self._shop.base)
        matrix: list[list[float | None]] = []
        for count, name in enumerate(order, 1):
            running.add(self.deltas[name])
            merged = running.merged()
            line: list[float | None] = [None] * len(order)
            if count == len(order):
                line = [self._final(row, merged)[name] for name in order]
            elif whole:
                line[:count] = self.score(merged, order[:count])
            else:
                line[count - 1] = self.score(merged, [name])[0]
            matrix.append(line)
        known = [[value or 0.0 for value in line] for line in matrix]
        return Run(row.name, self._seed, place, order, matrix, backward_transfer(known))

    def _final(self, row: Row, merged: Mapping[str, Tensor]) -> dict[str, float]:
        """By task; scored once where order does not matter."""
        if row.ordered or row.name not in self._finals:
            names = self._shop.names
            self._finals[row.name] = dict(zip(names, self.score(merged, names), strict=True))
        return self._finals[row.name]

    def references(self) -> Iterator[Run]:
        """Base, experts on their own tasks, the best single expert, joint training."""
        names, base = self._shop.names, self._shop.base
        zero = {key: value * 0 for key, value in base.items()}
        yield self._single("base", self.score(zero, names))
        every = {name: self.score(self.deltas[name], names) for name in names}
        yield self._single("experts", [every[name][place] for place, name in enumerate(names)])
        yield self._single("best single expert", max(every.values(), key=sum))

    def joint(self) -> Run:
        """One model trained on all tasks together, with as many steps for each."""
        model = self._shop.expert(self._shop.names, self._seed)
        deltas = {key: model[key] - self._shop.base[key] for key in model}
        return self._single("joint training", self.score(deltas, self._shop.names))

    def sequential(self, order: Sequence[str], place: int) -> Run:
        """One model fine-tuned on one task after the other, not merged."""
        models = self._shop.chain(order, self._seed)
        matrix: list[list[float | None]] = []
        for count, model in enumerate(models, 1):
            deltas = {key: model[key] - self._shop.base[key] for key in model}
            seen = self.score(deltas, order[:count])
            matrix.append([*seen, *[None] * (len(order) - count)])
        known = [[value or 0.0 for value in line] for line in matrix]
        return Run(
            "sequential fine-tuning", self._seed, place, order, matrix, backward_transfer(known)
        )

    def _single(self, name: str, scores: Sequence[float]) -> Run:
        return Run(name, self._seed, 0, self._shop.names, [list(scores)], None)
