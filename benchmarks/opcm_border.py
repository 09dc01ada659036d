"""Where OPCM's own norm stops paying: small task vectors, large ones, and what tells them apart.

    python benchmarks/opcm_border.py --data FOLDER [--encoder FOLDER] [--streams texts images]
           [--rates 2e-5 5e-5 …] [--layers N] [--probe STEPS] [--steps N] [--cache FOLDER] [--json]

OPCM leaves a model whose task vector has the mean norm of the contributions, whatever
their number and overlap. Every learning rate gives a set of experts of the same tasks; all
are merged by the mean, and by OPCM at its own norm and at a half of it.

    size      mean norm of the task vectors over the norm of the base's same tensors
    overlap   mean cosine between task vectors
    stretch   norm of OPCM's task vector over that of the plain mean
    sharp     second derivative of the mean loss along the plain mean's direction, per unit
              of its length squared, at the base
    mean ...  average accuracy over all tasks
    gain      OPCM at its own norm less the best of the mean and OPCM at a half

One seed, one order; one seed's spread is about a point and a half.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

from continual_stream import CACHE, DATA, ENCODER, encoder_folder, note
from streams.experts import OWN, Settings, Workshop
from streams.merge import Row, Running, norm_of
from streams.runs import Course

RATES = {"texts": (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 8e-4), "images": (1e-4, 3e-4, 1e-3, 3e-3)}
OPCM = Row("OPCM", "opcm", {"projection": "block"})
MEAN = Row("SWA", "mean")
PROBED = 64
"""Examples of a task that sharpness is measured on."""

Deltas = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One set of experts; accuracies are fractions."""

    stream: str
    rate: float
    size: float
    overlap: float
    stretch: float
    sharp: float
    base: float
    experts: float
    mean: float
    half: float
    own: float

    @property
    def gain(self) -> float:
        """Of OPCM at its own norm over what is less far out."""
        return self.own - max(self.mean, self.half)


def main() -> int:
    """Fine-tune at each rate, merge, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA))
    parser.add_argument("--encoder", type=Path, default=os.environ.get(ENCODER))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where experts are kept")
    parser.add_argument("--streams", nargs="+", default=["texts", "images"])
    parser.add_argument("--rates", nargs="+", type=float, help="of learning")
    parser.add_argument("--layers", type=int, default=3, help="of the encoder, fine-tuned")
    parser.add_argument("--probe", type=int, default=0, metavar="STEPS",
                        help="fit heads to the base first: it knows the tasks then")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of fine-tuning")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args()
    encoder = encoder_folder(given.encoder)
    if not given.data or encoder is None:
        note("opcm_border: skipped, no data (--data, WEFT_BENCH_DATA) or no encoder")
        return 0
    torch.set_num_threads(1)
    lines = []
    if not given.json:
        print(HEADER, flush=True)
    for stream in given.streams:
        for rate in given.rates or RATES[stream]:
            own = {**OWN[stream], "layers": given.layers, "rate": rate, "probe": given.probe}
            if given.steps:
                own["steps"] = given.steps
            shop = Workshop(
                Settings(stream=stream, **own), Path(given.data), encoder, given.cache
            )  # fmt: skip
            lines.append(measured(shop))
            if not given.json:
                print(text_of(lines[-1]), flush=True)
    if given.json:
        print(json.dumps([{**asdict(line), "gain": line.gain} for line in lines], indent=1))
    return 0


def measured(shop: Workshop) -> Line:
    """One line of the table."""
    course = Course(shop, 0)
    references = {run.row: run.mean for run in course.references()}
    deltas = [course.deltas[name] for name in course.names]
    mean, opcm = merged(MEAN, shop, deltas), merged(OPCM, shop, deltas)
    half = {name: value / 2 for name, value in opcm.items()}
    mean_norm = sum(norm_of(each) for each in deltas) / len(deltas)
    accuracies = [sum(found) / len(found) for found in scores(course, mean, half, opcm)]
    return Line(
        stream=shop.settings.stream,
        rate=shop.settings.rate,
        size=mean_norm / norm_of(shop.base),
        overlap=overlap(deltas),
        stretch=norm_of(opcm) / norm_of(mean),
        sharp=sharpness(shop, mean),
        base=references["base"],
        experts=references["experts"],
        mean=accuracies[0],
        half=accuracies[1],
        own=accuracies[2],
    )


def scores(course: Course, *merges: Deltas) -> Iterator[list[float]]:
    """Accuracies on all tasks, for each merge."""
    return (course.score(each, course.names) for each in merges)


def merged(row: Row, shop: Workshop, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By a row's method, in the stream's own order."""
    running = Running(row, shop.base)
    for each in deltas:
        running.add(each)
    return running.merged()


def overlap(deltas: list[dict[str, Tensor]]) -> float:
    """Mean cosine over all pairs."""
    flat = torch.stack([torch.cat([value.flatten() for value in each.values()]) for each in deltas])
    unit = functional.normalize(flat.double(), dim=1)
    count = len(unit)
    return float((unit @ unit.T).sum() - count) / (count * (count - 1))


def sharpness(shop: Workshop, direction: Deltas) -> float:
    """Central second difference of the mean loss along a direction, at the base."""
    step = 0.25
    low, middle, high = (loss(shop, direction, factor) for factor in (-step, 0.0, step))
    return (low - 2 * middle + high) / (step * norm_of(direction)) ** 2


def loss(shop: Workshop, direction: Deltas, factor: float) -> float:
    """Mean over the tasks of the loss at base + factor * direction, on training examples."""
    shop.put({name: value + factor * direction[name] for name, value in shop.base.items()})
    total = 0.0
    for name in shop.names:
        inputs, labels = shop.task(name).training
        rows = range(min(PROBED, len(labels)))
        with torch.no_grad():
            pooled = shop.model.upper(*inputs.batch(list(rows)))
            found = functional.cross_entropy(
                functional.linear(pooled.float(), shop.head(name)), labels[: len(rows)]
            )
        total += found.item() / len(shop.names)
    return total


HEADER = "stream   rate    size  overlap  stretch   sharp   base  experts   mean  half  own   gain"


def text_of(line: Line) -> str:
    """One line, accuracies in per cent."""
    part = [100 * each for each in (line.base, line.experts, line.mean, line.half, line.own)]
    return (
        f"{line.stream:7}{line.rate:7.0e}{line.size:8.4f}{line.overlap:9.3f}{line.stretch:9.2f}"
        f"{line.sharp:8.3f}{part[0]:7.1f}{part[1]:9.1f}{part[2]:7.1f}{part[3]:6.1f}"
        f"{part[4]:6.1f}{100 * line.gain:+7.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
