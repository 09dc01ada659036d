"""The result as a table for people, as rows for CSV, and as one JSON document."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from quality.bench import Result, Score
from quality.candidates import GROUPS, STEPS, UNLEARNING, Candidate
from quality.tasks import Settings

WIDTH = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was measured.

    Attributes:
        base: the base with the heads that were fitted on it.
        experts: by task.
        adapters: the same experts as low-rank adapters.
    """

    settings: Settings
    encoder: str
    base: Score
    experts: Mapping[str, Score]
    adapters: Mapping[str, Score]
    results: Sequence[Result]
    uncovered: Sequence[str]
    seconds: float

    def own(self, models: Mapping[str, Score]) -> list[float]:
        """Each expert on its own task, on the test half."""
        return [models[task].test[place] for place, task in enumerate(self.settings.tasks)]


def mean(values: Sequence[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def chosen(results: Sequence[Result]) -> list[Result]:
    """The best of each family on the validation half; of a tie, the first."""
    best: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.score is None:
            continue
        key = (result.candidate.group, result.candidate.family)
        before = best.get(key)
        if before is None or mean(result.score.validation) > _validation(before):
            best[key] = result
    return list(best.values())


def best_of_groups(results: Sequence[Result]) -> dict[str, Result]:
    """The best family of each group, again by the validation half."""
    found: dict[str, Result] = {}
    for result in chosen(results):
        group = result.candidate.group
        if group != UNLEARNING and (
            group not in found or _validation(result) > _validation(found[group])
        ):
            found[group] = result
    return found


def table(outcome: Outcome) -> Iterator[str]:
    """Accuracies on the test half in per cent, a line a merge."""
    tasks = outcome.settings.tasks
    heads = "".join(f"{task[:7]:>8}" for task in tasks)
    yield f"{'':{WIDTH}}{'':26}{heads}{'mean':>8}{'valid.':>8}{'s':>7}"
    yield _line("base", "", outcome.base.test, mean(outcome.base.validation))
    yield _line("experts, each on its own task", "", outcome.own(outcome.experts))
    yield _line("experts as adapters, likewise", "", outcome.own(outcome.adapters))
    for task, score in outcome.experts.items():
        yield _line(f"expert {task}", "on all tasks", score.test, mean(score.validation))
    picked, best = chosen(outcome.results), best_of_groups(outcome.results)
    for group, results in groupby(outcome.results, key=lambda result: result.candidate.group):
        yield f"\n{group}"
        for result in results:
            yield _result(result, any(result is one for one in picked))
        if group in best:
            yield f"  best by validation: {_name(best[group].candidate)}"
    yield from _hosts(outcome.results)
    yield from _notes(outcome)


def write_csv(outcome: Outcome, path: Path) -> None:
    """A row a merge, base and experts first; fractions, not per cent."""
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, *outcome.settings.tasks, "test_mean", "validation_mean"])
        for name, score in (("base", outcome.base), *outcome.experts.items()):
            writer.writerow(["reference", name, "", "", "", "", "", *_numbers(score)])
        picked = chosen(outcome.results)
        for result in outcome.results:
            item = result.candidate
            best = any(result is one for one in picked)
            start = [item.group, item.family, item.method, item.setting, int(best)]
            numbers = [] if result.score is None else _numbers(result.score)
            writer.writerow([*start, f"{result.seconds:.3f}", result.error, *numbers])


def document(outcome: Outcome) -> dict[str, object]:
    """All of it, for `--json`."""
    picked = chosen(outcome.results)
    best = best_of_groups(outcome.results)
    return {
        "settings": asdict(outcome.settings),
        "encoder": outcome.encoder,
        "base": asdict(outcome.base),
        "experts": {task: asdict(score) for task, score in outcome.experts.items()},
        "adapters": {task: asdict(score) for task, score in outcome.adapters.items()},
        "results": [
            {
                "group": result.candidate.group,
                "family": result.candidate.family,
                "method": result.candidate.method,
                "options": dict(result.candidate.options),
                "before": [asdict(step) for step in result.candidate.before],
                "after": [asdict(step) for step in result.candidate.after],
                "best_in_family": any(result is one for one in picked),
                "score": None if result.score is None else asdict(result.score),
                "merge_seconds": result.seconds,
                "error": result.error,
            }
            for result in outcome.results
        ],
        "best": {group: _name(result.candidate) for group, result in best.items()},
        "not_run": list(outcome.uncovered),
        "seconds": outcome.seconds,
    }


_COLUMNS = ("group", "family", "method", "setting", "best_in_family", "merge_seconds", "error")


def _validation(result: Result) -> float:
    return mean(result.score.validation) if result.score else -math.inf


def _numbers(score: Score) -> list[str]:
    values = [*score.test, mean(score.test), mean(score.validation)]
    return [f"{value:.4f}" for value in values]


def _name(candidate: Candidate) -> str:
    return f"{candidate.family} ({candidate.setting})"


def _line(
    name: str, setting: str, test: Sequence[float], valid: float | None = None, seconds: str = ""
) -> str:
    cells = "".join(f"{100 * value:8.1f}" for value in (*test, mean(test)))
    validation = f"{'':8}" if valid is None else f"{100 * valid:8.1f}"
    return f"{name:{WIDTH}}{setting:26}{cells}{validation}{seconds:>7}".rstrip()


def _result(result: Result, best: bool) -> str:
    name = f"{'* ' if best else '  '}{result.candidate.family}"
    if result.score is None:
        return f"{name:{WIDTH}}{result.candidate.setting:26}  refused: {result.error}"
    valid = mean(result.score.validation)
    seconds = f"{result.seconds:.1f}"
    return _line(name, result.candidate.setting, result.score.test, valid, seconds)


def _hosts(results: Sequence[Result]) -> Iterator[str]:
    """What steps change: the same merge without them."""
    plain = {
        result.candidate.host: mean(result.score.test)
        for result in results
        if result.score and result.candidate.group in GROUPS.values()
    }
    yield "\nwith steps, less the same merge without them (points of the mean)"
    for result in results:
        item = result.candidate
        if item.group == STEPS and result.score and item.host in plain:
            change = 100 * (mean(result.score.test) - plain[item.host])
            yield f"  {item.family:{WIDTH - 2}}{item.setting:26}{change:+8.1f}"


def _notes(outcome: Outcome) -> Iterator[str]:
    held = outcome.settings.held
    error = 100 * math.sqrt(0.8 * 0.2 / (held * len(outcome.settings.tasks)))
    yield "\n* best of its family by the mean over the validation half; all else is the test half."
    yield (
        f"One seed, {held} test texts a task at most: a standard error of about {error:.1f} points"
        " of the mean, less between two merges."
    )
    if outcome.uncovered:
        yield f"Not run: {', '.join(outcome.uncovered)}."
    yield f"{outcome.seconds:.0f} s in all."
