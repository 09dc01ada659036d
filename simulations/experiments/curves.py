"""What is drawn of an experiment: lines over rounds, means and deviations over seeds."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.simulations.contraction import repeats_after
from weft.simulations.experiments.cells import Experiment
from weft.simulations.experiments.tables import Outcome

MOST_LINES = 10
"""In one panel; beyond, lines go to several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points; means over the seeds that have one there.

    Attributes:
        x: ascending.
        mean, low, high: at each x; `low` and `high` are a deviation away.
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One line of an experiment.

    Attributes:
        panel: the value that its panel stands for; empty where there is one panel.
        label: what the legend says.
        outcomes: one a seed.
    """

    panel: str
    label: str
    outcomes: Sequence[Outcome]

    @property
    def own(self) -> Curve:
        """Mean accuracy of the nodes, each with its own model, over rounds from 1."""
        return self._accuracies("mean")

    @property
    def merged(self) -> Curve:
        """Accuracy of the mean of all models, over rounds from 1."""
        return self._accuracies("merged")

    @property
    def distance(self) -> Curve:
        """Consensus distance after the exchanges."""
        return self._over_rounds(lambda outcome, at: outcome.record.moments[at].mixed)

    @property
    def bound(self) -> Curve | None:
        """What the spectrum says of each round: the distance before, times the contraction.

        None where rounds are not alike, so that no one round has a bound of its own, and where
        the rule does more than to mix.
        """
        schedule, share = self.outcomes[0].schedule, self.outcomes[0].predicted
        if repeats_after(schedule) > 1 or schedule.silent or math.isnan(share):
            return None
        return self._over_rounds(lambda outcome, at: outcome.record.moments[at].trained * share)

    @property
    def own_by_bytes(self) -> Curve:
        """Mean accuracy of the nodes against the bytes of all nodes so far."""
        own = self.own
        moved = self._over_rounds(lambda outcome, at: outcome.bytes[at])
        by_round = dict(zip(moved.x, moved.mean, strict=True))
        return Curve(
            x=[by_round[round] for round in own.x], mean=own.mean, low=own.low, high=own.high
        )

    @property
    def end(self) -> tuple[float, float] | None:
        """Bytes in all, and the accuracy with which it ends; None where it has none."""
        ends = [(each.total_bytes, each.accuracy) for each in self.outcomes]
        known = [(moved, accuracy) for moved, accuracy in ends if accuracy is not None]
        if not known:
            return None
        return statistics.fmean(x for x, _ in known), statistics.fmean(y for _, y in known)

    def _accuracies(self, which: str) -> Curve:
        def value(outcome: Outcome, at: int) -> float | None:
            found = outcome.record.moments[at].accuracies
            return None if found is None else float(getattr(found, which))

        return self._over_rounds(value)

    def _over_rounds(self, value: Callable[[Outcome, int], float | None]) -> Curve:
        found: dict[int, list[float]] = {}
        for outcome in self.outcomes:
            for moment in outcome.record.moments:
                seen = value(outcome, moment.round)
                if seen is not None:
                    found.setdefault(moment.round + 1, []).append(seen)
        rounds = sorted(found)
        means = [statistics.fmean(found[round]) for round in rounds]
        spreads = [statistics.stdev(found[r]) if len(found[r]) > 1 else 0.0 for r in rounds]
        ends = list(zip(means, spreads, strict=True))
        return Curve(
            x=rounds,
            mean=means,
            low=[mean - spread for mean, spread in ends],
            high=[mean + spread for mean, spread in ends],
        )


def drawn(experiment: Experiment, outcomes: Sequence[Outcome]) -> list[Drawn]:
    """The lines, in the order of the experiment, each in its panel."""
    by_line: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_line.setdefault(outcome.cell.line, []).append(outcome)
    key = panel_key(experiment, len(by_line))
    return [
        Drawn(panel=_panel(members[0], key), label=_label(name, members[0], key), outcomes=members)
        for name, members in by_line.items()
    ]


def panel_key(experiment: Experiment, lines: int) -> str | None:
    """The swept key that has a panel for each value: that of fewest values; None for one panel."""
    if lines <= MOST_LINES:
        return None
    counts = {
        key: len({str(cell.settings.value(key)) for cell in experiment.cells})
        for key in experiment.keys
    }
    several = {key: count for key, count in counts.items() if count > 1}
    return min(several, key=lambda key: several[key]) if several else None


def _panel(outcome: Outcome, key: str | None) -> str:
    return "" if key is None else f"{key.rpartition('.')[2]} {outcome.cell.settings.value(key)}"


def _label(name: str, outcome: Outcome, key: str | None) -> str:
    """The line's name without what its panel says."""
    said = _panel(outcome, key)
    return ", ".join(part for part in name.split(", ") if part != said) or name
