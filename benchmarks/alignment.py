"""What one aligned merge costs: a ResNet-20 with two neighbours, matched by activations.

    python benchmarks/alignment.py [--widths 16 128] [--samples 1000] [--threads 2]
                                   [--reference FOLDER] [--json]

Networks and images of 3x32x32 are random: only the work is measured. Every measurement is a
process of its own, so that its peak of memory is its own, less what it had before it began.
A merge is: activations of the anchor and both neighbours looked at (features), units matched
(assignment), tensors permuted and averaged (permutation), running statistics re-estimated.
Tracing comes once in the life of a node, and is a column of its own.

--reference is a folder with the code of DIMAT (nsaadati/DIMAT), fetched by you. Then both
merge its networks. Without it only ours is measured.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from aligned import reference
from aligned.merges import tensors_of

from weft.merging.alignment.activations import matched
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.observation import observed
from weft.merging.alignment.pleas import reshaped
from weft.merging.alignment.tracing import trace
from weft.node.calibration import pooled_moments, set_running_statistics
from weft.simulations.tasks.models import build_model

OURS = {"float32": None, "bfloat16": torch.bfloat16}
"""In which dtype activations are looked at; everything else is float32."""
NEIGHBOURS = 2
SIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds of a merge; shares by what was done; the peak beside what was there before."""

    who: str
    width: int
    samples: int
    wall: float
    cpu: float
    peak_mib: float
    seconds: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Measure in processes, print."""
    given = _arguments()
    if given.measure:
        print(json.dumps(asdict(measured(given))))
        return 0
    if given.reference and not (given.reference / "utils" / "model_merger.py").is_file():
        print(f"alignment: {given.reference} has no utils/model_merger.py", file=sys.stderr)
        return 2
    if not given.reference:
        print("alignment: no --reference, so only ours is measured", file=sys.stderr)
    rows = [
        _in_a_process(who, width, given)
        for width in given.widths
        for who in (*OURS, *(["reference"] if given.reference else []))
    ]
    for line in (
        [json.dumps([asdict(row) for row in rows], indent=1)] if given.json else table(rows)
    ):
        print(line)
    return 0


def measured(given: argparse.Namespace) -> Measured:
    """One merge, in this process."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    width = given.widths[0]
    modules = reference.loaded(given.reference) if given.reference else {}
    models = [_network(modules, width).eval() for _ in range(1 + NEIGHBOURS)]
    images = torch.randn(given.samples, 3, SIDE, SIDE)
    if not modules:
        images = images.permute(0, 2, 3, 1).contiguous()
    batches = [(part,) for part in torch.split(images, given.batch) if len(part) == given.batch]
    seconds: dict[str, float] = {}
    if given.measure in OURS:
        merge = our_merge(models, batches, seconds, OURS[given.measure])
    else:
        merge = reference.merge_of(modules, models, batches)
    before = _peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    merge()
    return Measured(
        who=given.measure,
        width=width,
        samples=sum(len(part) for (part,) in batches),
        wall=time.perf_counter() - wall,
        cpu=time.process_time() - cpu,
        peak_mib=_peak_mib() - before,
        seconds=seconds,
    )


def our_merge(
    models: list[nn.Module],
    batches: list[tuple[Tensor]],
    seconds: dict[str, float],
    dtype: torch.dtype | None,
) -> Callable[[], None]:
    """A merge of an anchor, the first, with its neighbours; CPU seconds by part."""
    with _timed(seconds, "tracing"):
        traced = trace(models[0], batches[0], {})
        groups = groups_of(traced)
    mine, *others = (tensors_of(model) for model in models)

    def merge() -> None:
        with _timed(seconds, "features"):
            seen = observed(traced, groups, mine, others, batches, dtype)
        with _timed(seconds, "assignment"):
            found = [matched(groups, *each) for each in zip(seen, [mine] * 2, others, strict=True)]
        with _timed(seconds, "permutation"):
            all_of = [mine, *(p.applied(each) for p, each in zip(found, others, strict=True))]
            model = reshaped(models[0], {name: _mean([e[name] for e in all_of]) for name in mine})
        with _timed(seconds, "statistics"):
            set_running_statistics(model, pooled_moments(model, batches))

    return merge


def table(rows: list[Measured]) -> list[str]:
    """For people."""
    lines = [f"{'':10} width  images   wall s    CPU s  peak MiB"]
    for row in rows:
        lines.append(
            f"{row.who:10} {row.width:5}  {row.samples:6} {row.wall:8.2f} {row.cpu:8.2f}"
            f"  {row.peak_mib:8.0f}"
        )
        total = sum(value for name, value in row.seconds.items() if name != "tracing")
        if row.seconds:
            parts = (
                f"{name} {value:.2f} s" + ("" if name == "tracing" else f" ({value / total:.1%})")
                for name, value in row.seconds.items()
            )
            lines.append(f"{'':11}{', '.join(parts)}")
    by_width: dict[int, dict[str, Measured]] = {}
    for row in rows:
        by_width.setdefault(row.width, {})[row.who] = row
    for width, found in by_width.items():
        for who in OURS if "reference" in found else ():
            ratio = found["reference"].cpu / found[who].cpu
            lines.append(
                f"width {width}, {who}: {ratio:.1f} times less CPU time than the reference"
            )
    return lines


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the CPU seconds of a block."""
    began = time.process_time()
    yield
    seconds[name] = time.process_time() - began


def _network(modules: dict[str, object], width: int) -> nn.Module:
    if modules:
        return reference.network(modules, width)
    return build_model("resnet20", shape=(SIDE, SIDE, 3), classes=10, width=width)


def _mean(tensors: list[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack(tensors).mean(0)


def _in_a_process(who: str, width: int, given: argparse.Namespace) -> Measured:
    command = [sys.executable, __file__, "--measure", who, "--widths", str(width)]
    for name in ("samples", "batch", "threads"):
        command += [f"--{name}", str(getattr(given, name))]
    if given.reference:
        command += ["--reference", str(given.reference)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128], help="of ResNet-20")
    parser.add_argument("--samples", type=int, default=1000, help="images for calibration")
    parser.add_argument("--batch", type=int, default=100, help="images at a time")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--reference", type=Path, help="a folder with the code of DIMAT")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--measure", choices=(*OURS, "reference"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
