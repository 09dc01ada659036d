"""Tuned keys: of a key that is swept to find its best value, each line shows only that one."""

import math
import statistics
from collections.abc import Hashable, Sequence

from weft.simulations.experiments.sweeps import SEEDS
from weft.simulations.experiments.tables import Outcome


def chosen(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those whose value of the tuned key does best in its arm, all else alike.

    Best is the highest mean over the seeds of the accuracy with which cells end; a value
    with which some seed has none, because it diverged, is the worst; of equals the first
    stays. The same seeds choose and are shown: what is chosen among many values is flattered
    by a part of the deviation over seeds. Outcomes without a tuned key stay as they are.
    """
    groups: dict[Hashable, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        groups.setdefault(_apart_from_tuned(outcome), {}).setdefault(outcome.cell.line, []).append(
            outcome
        )
    best = {max(lines, key=lambda name: _score(lines[name])) for lines in groups.values()}
    return [outcome for outcome in outcomes if outcome.cell.line in best]


def _apart_from_tuned(outcome: Outcome) -> Hashable:
    """What two cells share that differ in the tuned key and the seed alone."""
    cell = outcome.cell
    free = {SEEDS, cell.settings.experiment.tune}
    return cell.arm, tuple(
        (key, str(value)) for key, value in cell.swept.items() if key not in free
    )


def _score(outcomes: Sequence[Outcome]) -> float:
    found = [outcome.accuracy for outcome in outcomes]
    known = [accuracy for accuracy in found if accuracy is not None and math.isfinite(accuracy)]
    return statistics.fmean(known) if len(known) == len(found) else -math.inf
