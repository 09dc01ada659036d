"""Runs: one row over one order of arrival with the experts of one seed, scored on the way."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from streams.experts import Workshop
from streams.memory import Matrix, Memory
from streams.merge import Row, Running
from streams.statistics import backward_transfer

Deltas = Mapping[str, Mapping[str, Tensor]]
"""Task vectors by task."""

REFERENCES = ("base", "experts", "best single expert")


@dataclass(frozen=True, slots=True)
class Run:
    """What one row came to.

    Attributes:
        order: names of tasks as they arrived.
        matrix: row t: accuracies after contribution t on the tasks in this order; None
            where that was not scored; only the last row where nothing else was.
        transfer: backward transfer; None where only the last row was scored.
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
    """One stream with one seed's experts: runs rows.

    Args:
        shop: makes the experts.
        seed: of their fine-tuning.
        names: of tasks; all of the stream unless given.
        memory: what was scored before.
    """

    def __init__(
        self, shop: Workshop, seed: int, names: Sequence[str] = (), memory: Memory | None = None
    ) -> None:
        self._shop, self._seed = shop, seed
        self._memory = Memory() if memory is None else memory
        self.names = list(names or shop.names)
        self.deltas: dict[str, dict[str, Tensor]] = {}
        for name in self.names:
            expert = shop.expert([name], seed)
            self.deltas[name] = {key: expert[key] - shop.base[key] for key in expert}

    def score(self, merged: Mapping[str, Tensor], names: Sequence[str]) -> list[float]:
        """Accuracies of the base plus a task vector."""
        base = self._shop.base
        self._shop.put({key: base[key] + merged[key] for key in base})
        return [self._shop.accuracy(name) for name in names]

    def run(
        self, rows: Sequence[Row], order: Sequence[str], place: int, *, steps: bool, whole: bool
    ) -> list[Run]:
        """One contribution after the other.

        Args:
            rows: what merges; they differ in their scale alone.
            order: of arrival.
            place: the number of this order.
            steps: score the newest task after each contribution, for backward transfer;
                otherwise all tasks after the last one and nothing else.
            whole: score all tasks seen so far after each contribution.
        """
        keys = [self._key(row.unscaled, row.scale, order, steps, whole) for row in rows]
        missing = [
            (row, key) for row, key in zip(rows, keys, strict=True) if key not in self._memory
        ]
        if missing:
            due = [row for row, _ in missing]
            found = self._matrices(due, order, steps or whole, whole)
            self._put([key for _, key in missing], found)
        matrices = [self._memory[key] for key in keys]
        return [
            Run(row.name, self._seed, place, order, matrix, _transfer(matrix))
            for row, matrix in zip(rows, matrices, strict=True)
        ]

    def _matrices(
        self, rows: Sequence[Row], order: Sequence[str], steps: bool, whole: bool
    ) -> list[Matrix]:
        running = Running(rows[0], self._shop.base)
        found: list[Matrix] = [[] for _ in rows]
        for count, name in enumerate(order, 1):
            running.add(self.deltas[name])
            last = count == len(order)
            if not (last or steps):
                continue
            merged = running.merged()
            asked = order[:count] if last or whole else [name]
            for row, matrix in zip(rows, found, strict=True):
                scaled = {key: value * row.scale for key, value in merged.items()}
                scores = dict(zip(asked, self.score(scaled, asked), strict=True))
                matrix.append([scores.get(each) for each in order])
        return found

    def references(self) -> Iterator[Run]:
        """Base, experts on their own tasks, the best single expert."""
        names, base = self.names, self._shop.base
        keys = [self._key(name, 1.0, names, False, False) for name in REFERENCES]
        if not all(key in self._memory for key in keys):
            zero = {key: value * 0 for key, value in base.items()}
            every = {name: self.score(self.deltas[name], names) for name in names}
            lines = [
                self.score(zero, names),
                [every[name][place] for place, name in enumerate(names)],
                max(every.values(), key=sum),
            ]
            self._put(keys, [[list(line)] for line in lines])
        for name, key in zip(REFERENCES, keys, strict=True):
            yield Run(name, self._seed, 0, names, self._memory[key], None)

    def joint(self) -> Run:
        """One model trained on all tasks together, with as many steps for each."""
        names, key = self._shop.names, f"{self._seed} joint"
        if key not in self._memory:
            model = self._shop.expert(names, self._seed)
            deltas = {name: model[name] - self._shop.base[name] for name in model}
            self._memory[key] = [list(self.score(deltas, names))]
        return Run("joint training", self._seed, 0, names, self._memory[key], None)

    def sequential(self, order: Sequence[str], place: int) -> Run:
        """One model fine-tuned on one task after the other, not merged."""
        key = f"{self._seed} in turn on {' '.join(order)}"
        if key not in self._memory:
            self._memory[key] = self._in_turn(order)
        matrix = self._memory[key]
        return Run("sequential fine-tuning", self._seed, place, order, matrix, _transfer(matrix))

    def _in_turn(self, order: Sequence[str]) -> Matrix:
        matrix: Matrix = []
        for count, model in enumerate(self._shop.chain(order, self._seed), 1):
            deltas = {key: model[key] - self._shop.base[key] for key in model}
            seen = self.score(deltas, order[:count])
            matrix.append([*seen, *[None] * (len(order) - count)])
        return matrix

    def from_head(self, row: Row, order: Sequence[str], place: int) -> Run:
        """Each expert fine-tuned from the merge so far; what it adds to that is merged."""
        key = f"{self._seed} from the head of {row.unscaled} x {row.scale:g} on {' '.join(order)}"
        if key not in self._memory:
            self._memory[key] = self._from_head(row, order)
        name, matrix = f"from the head, {row.name}", self._memory[key]
        return Run(name, self._seed, place, order, matrix, _transfer(matrix))

    def _from_head(self, row: Row, order: Sequence[str]) -> Matrix:
        base, running = self._shop.base, Running(row, self._shop.base)
        head, matrix = base, Matrix()
        for count, name in enumerate(order, 1):
            model = self._shop.expert([name], self._seed, head)
            running.add({key: model[key] - head[key] for key in base})
            merged = {key: value * row.scale for key, value in running.merged().items()}
            head = {key: base[key] + merged[key] for key in base}
            seen = self.score(merged, order[:count])
            matrix.append([*seen, *[None] * (len(order) - count)])
        return matrix

    def long(self, row: Row, count: int) -> Run:
        """So many contributions: the tasks in turn, again and again, fine-tuned with other seeds.

        The first ones are this seed's; scored on all tasks after the last one.
        """
        shop, names = self._shop, self.names
        key = f"{self._seed} {row.unscaled} x {row.scale:g} after {count}"
        if key not in self._memory:
            running = Running(row, shop.base)
            for place in range(count):
                expert = shop.expert([names[place % len(names)]], self._seed + place // len(names))
                running.add({name: expert[name] - shop.base[name] for name in expert})
            merged = {name: value * row.scale for name, value in running.merged().items()}
            self._memory[key] = [list(self.score(merged, names))]
        return Run(f"{row.name}, {count} in all", self._seed, 0, names, self._memory[key], None)

    def _key(
        self, unscaled: str, scale: float, order: Sequence[str], steps: bool, whole: bool
    ) -> str:
        depth = "whole" if whole else "steps" if steps else "last"
        return f"{self._seed} {unscaled} x {scale:g} on {' '.join(order)}: {depth}"

    def _put(self, keys: Sequence[str], matrices: Sequence[Matrix]) -> None:
        for key, matrix in zip(keys, matrices, strict=True):
            self._memory[key] = matrix


def _transfer(matrix: Matrix) -> float | None:
    """None where only the last contribution was followed by a score."""
    if len(matrix) < 2:
        return None
    return backward_transfer([[value or 0.0 for value in line] for line in matrix])
