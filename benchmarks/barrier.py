"""How far two networks that started apart are from one: accuracy of what they merge to.

    python benchmarks/barrier.py --data FILE.npz [--cache FOLDER] [--samples 1000] [--json]

Two ResNet-20 and two perceptrons are trained on Fashion-MNIST from different starts, then
merged in every way that there is. `as merged` is with the running statistics that the merge
made, `re-estimated` with those of the calibration images, which are the first training
images, without labels. `recovered` is the share of what is left from the plain average with
re-estimated statistics to the mean of the parents.

--data is an .npz of `x_train, y_train, x_test, y_test`; without it fashion_mnist.npz in the
folder `vision` of WEFT_BENCH_DATA. Parents are kept in the cache.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from aligned.merges import Bench, re_estimated
from aligned.parents import Pair, Recipe, trained

DATA = "WEFT_BENCH_DATA"
CACHE = Path.home() / ".cache" / "weft-bench" / "barrier"
RECIPES = (
    Recipe(
        model="mlp", options="hidden=128, layers=3", images=12000, held=2000, rounds=6, steps=150
    ),
    Recipe(model="resnet20", options="width=8", images=12000, held=2000, rounds=6, steps=100),
)
WANTED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to merge one pair; accuracies are fractions, None: nothing to re-estimate."""

    pair: str
    merge: str
    merged: float
    re_estimated: float | None
    recovered: float
    seconds: float

    @property
    def best(self) -> float:
        """With statistics re-estimated where there are any."""
        return self.merged if self.re_estimated is None else self.re_estimated


def main() -> int:
    """Train, merge, score, print."""
    given = _arguments()
    data = given.data or _from_environment()
    if data is None or not data.is_file():
        print(f"barrier: skipped, no data (--data or {DATA})", file=sys.stderr)
        return 0
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for recipe in RECIPES:
        pair = trained(recipe, data, given.samples, given.cache, _note)
        rows += scored(pair)
    lines = [json.dumps([asdict(row) for row in rows], indent=1)] if given.json else table(rows)
    for line in lines:
        print(line)
    return 0


def scored(pair: Pair) -> list[Row]:
    """All merges of a pair, its parents first."""
    began = time.process_time()
    bench = Bench.of(pair.models, pair.calibration)
    shared = time.process_time() - began
    _note(f"{pair.recipe.model}: trained {pair.seconds:.0f} s, matched {shared:.1f} s of CPU time")
    parents = [pair.accuracy(model) for model in pair.models]
    top = sum(parents) / len(parents)
    found = [
        _row(pair, f"parent {number}", model, bench, 0.0)
        for number, model in enumerate(pair.models, 1)
    ]
    for name, merge in bench.rows():
        began = time.process_time()
        model = merge()
        found.append(_row(pair, name, model, bench, time.process_time() - began))
    plain = next(row for row in found if row.merge == "plain average").best
    return [
        Row(**{**asdict(row), "recovered": (row.best - plain) / (top - plain)}) for row in found
    ]


def _row(pair: Pair, name: str, model: nn.Module, bench: Bench, seconds: float) -> Row:
    again = re_estimated(model, bench.batches)
    return Row(
        pair=f"{pair.recipe.model} {pair.recipe.options}",
        merge=name,
        merged=pair.accuracy(model),
        re_estimated=None if again is None else pair.accuracy(again),
        recovered=0.0,
        seconds=seconds,
    )


def table(rows: Sequence[Row]) -> list[str]:
    """For people."""
    lines: list[str] = []
    for pair in dict.fromkeys(row.pair for row in rows):
        lines += ["", pair, f"{'':34} as merged  re-estimated  recovered  CPU s"]
        for row in rows:
            if row.pair == pair:
                again = "-" if row.re_estimated is None else f"{row.re_estimated:.1%}"
                lines.append(
                    f"{row.merge:34} {row.merged:9.1%}  {again:>12}  {row.recovered:9.0%}"
                    f"  {row.seconds:5.1f}"
                )
        reached = next(
            row.recovered for row in rows if (row.pair, row.merge) == (pair, "activation matching")
        )
        word = "at least" if reached >= WANTED else "LESS THAN"
        lines.append(f"activation matching recovers {word} {WANTED:.0%} of what is left")
    return lines


def _from_environment() -> Path | None:
    folder = os.environ.get(DATA)
    return Path(folder) / "vision" / "fashion_mnist.npz" if folder else None


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where parents are kept")
    parser.add_argument("--samples", type=int, default=1000, help="images for calibration")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
