"""One process of the benchmark: merges files and scores what comes out."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from quality.candidates import Candidate
from quality.encoder import Encoder, States
from quality.experts import Places, head_of, scores
from quality.tasks import Settings, read_task
from quality.wordpiece import WordPiece
from weft import __version__
from weft.checkpoints.adapter_writer import write_adapter
from weft.checkpoints.inputs import open_input
from weft.checkpoints.job import MergeJob, run_job
from weft.cli.merge_build import Depths, inputs_of, spec_of
from weft.cli.recipe import ModelEntry, Recipe
from weft.cli.schedule import Schedule
from weft.errors import WeftError
from weft.merging.precision import Precision

RANK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a model does on every task, in the order of the tasks.

    Attributes:
        validation: accuracies on the first half of the test split.
        losses: mean cross-entropies on it.
        test: accuracies on the second half.
    """

    validation: list[float]
    losses: list[float]
    test: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a candidate came to; `error` is empty where it was merged."""

    candidate: Candidate
    score: Score | None
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Half:
    """Texts of one task: rows of all held texts, and their labels."""

    rows: slice
    labels: Tensor


class Bench:
    """The held texts of all tasks, and a model to put weights into.

    Args:
        places: where base, experts and heads are.
        settings: the tasks.
    """

    def __init__(self, places: Places, settings: Settings) -> None:
        self._places, self._settings = places, settings
        tokenizer = WordPiece(places.encoder / "vocab.txt")
        self._encoder = Encoder(places.encoder, settings.layers)
        self._heads = [head_of(places, task) for task in settings.tasks]
        self._halves: list[tuple[Half, Half]] = []
        tokens: list[list[int]] = []
        for name in settings.tasks:
            task = read_task(places.data, name, tokenizer, settings)
            pair = []
            for half in (task.validation, task.test):
                rows = slice(len(tokens), len(tokens) + len(half.labels))
                pair.append(Half(rows, torch.tensor(half.labels)))
                tokens += half.tokens
            self._halves.append((pair[0], pair[1]))
        self._states = States(self._encoder, tokens)

    def score(self, model: Path) -> Score:
        """A checkpoint, or an adapter on the base, on all tasks."""
        with open_input(self._places.base) as base, open_input(model, base) as reader:
            tensors = {name: reader.read(name) for name in reader.schema.names}
        self._encoder.load_state_dict(tensors, strict=False)
        pooled = self._states.pooled(self._encoder)
        found = [
            [scores(pooled[half.rows], head, half.labels) for half in halves]
            for head, halves in zip(self._heads, self._halves, strict=True)
        ]
        return Score(
            validation=[halves[0][0] for halves in found],
            losses=[halves[0][1] for halves in found],
            test=[halves[1][0] for halves in found],
        )

    def run(self, candidate: Candidate, losses: Sequence[float]) -> Result:
        """Merge as `weft merge` does, and score.

        Args:
            candidate: what is merged.
            losses: of each expert on its own task.
        """
        tasks = self._settings.tasks[:1] if candidate.one else self._settings.tasks
        models = [
            self._entry(task, candidate.adapters, loss if candidate.metrics else 1.0)
            for task, loss in zip(tasks, losses, strict=False)
        ]
        with tempfile.TemporaryDirectory(dir=self._places.cache) as folder:
            began = time.perf_counter()
            try:
                merged = self._merge(candidate, models, Path(folder))
            except WeftError as error:
                return Result(candidate=candidate, score=None, seconds=0.0, error=str(error))
            seconds = time.perf_counter() - began
            return Result(candidate=candidate, score=self.score(merged), seconds=seconds)

    def _entry(self, task: str, adapter: bool, weight: float) -> ModelEntry:
        path = adapter_of(self._places, task) if adapter else self._places.expert(task)
        return ModelEntry(path=str(path), weight=Schedule.constant(weight), name=task)

    def _merge(self, candidate: Candidate, models: Sequence[ModelEntry], folder: Path) -> Path:
        if not candidate.chained:
            return self._job(candidate, models, folder / "merged")
        merged = models[0]
        for count, model in enumerate(models[1:], 2):
            # With t = 1 / count each model has gone as far as every other one in the end.
            step = replace(candidate, options={**candidate.options, "t": 1 / count})
            path = self._job(step, [merged, model], folder / f"merged-{count}")
            merged = replace(merged, path=str(path))
        return Path(merged.path)

    def _job(self, candidate: Candidate, models: Sequence[ModelEntry], output: Path) -> Path:
        recipe = Recipe(
            method=candidate.method,
            models=tuple(models),
            sidecars=str(self._places.base),
            options=candidate.options,
            base=str(self._places.base),
            before=candidate.before,
            after=candidate.after,
        )
        base, inputs = inputs_of(recipe)
        names = sorted(self._encoder.tuned_names)
        job = MergeJob(
            spec=spec_of(recipe, Precision.EXACT, Depths(lambda: names)),
            base=base,
            models=inputs,
            output=output,
            recipe={"method": candidate.method, "weft": __version__},
        )
        return run_job(job).output


def adapter_of(places: Places, task: str) -> Path:
    """An expert as a low-rank adapter."""
    return places.cache / f"{task}.adapter"


def make_adapter(places: Places, task: str) -> None:
    """The nearest adapter of rank 16 to an expert's task vector; what is no matrix is left out."""
    if adapter_of(places, task).exists():
        return
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    with open_input(places.base) as base, open_input(places.expert(task)) as expert:
        for name in base.schema.names:
            delta = expert.read(name).double() - base.read(name).double()
            if delta.ndim != 2:
                continue
            left, values, right = torch.linalg.svd(delta, full_matrices=False)
            half = values[:RANK].sqrt()
            pair = (left[:, :RANK] * half).float(), (half[:, None] * right[:RANK]).float()
            factors[name.removesuffix(".weight")] = pair
    write_adapter(adapter_of(places, task), factors)
