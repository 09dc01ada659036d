"""OPCM by weft and by FusionBench, in turn, each run a process of its own."""

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.environments import FUSION_BENCH, python_of
from peers.process import measured

HERE = Path(__file__).parent
LAYER = (*["768x768"] * 4, "3072x768", "768x3072")
LAYERS = 12
SQUARE, LARGE = "1024x1024", "4096x4096"
VIT = "ViT-B/32 step"
CPU_TARGET, WALL_TARGET, ERROR_TARGET = 2.4, 2.8, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Medians of some runs.

    Attributes:
        cpu: seconds of processor.
        wall: seconds by the clock.
        spread: least and most of the first.
        others: share of all cores that others held.
    """

    cpu: float
    wall: float
    spread: tuple[float, float]
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One piece of work by weft, by FusionBench with as many threads, and with one."""

    work: str
    weft: Taken
    theirs: Taken
    alone: Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is compared.

    Attributes:
        cache: holds FusionBench's environment.
        layers: of the model, that are measured.
        repeats: runs of each.
        threads: cores that each may use.
        torch_index: where FusionBench may take torch from.
    """

    cache: Path
    layers: int
    repeats: int
    threads: int
    torch_index: str = ""

    def compare(self, *, large: bool) -> tuple[list[Row], dict[str, float]]:
        """A row a piece of work, and errors by "who shape".

        Raises:
            NotThere: FusionBench cannot be installed.
        """
        python = python_of(FUSION_BENCH, self.cache, self.torch_index)
        works = {
            VIT: LAYER * self.layers,
            SQUARE: (SQUARE,),
            **({LARGE: (LARGE,)} if large else {}),
        }
        shapes = sorted({shape for work in works.values() for shape in work})
        folder = Path(tempfile.mkdtemp(prefix="opcm-", dir=self.cache))
        try:
            _run(sys.executable, "spectral_matrices.py", "make", folder, *shapes)
            rows = [self._row(python, folder, work, parts) for work, parts in works.items()]
            errors = _run(sys.executable, "opcm_reference.py", folder, *shapes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return rows, {who: error for who, (error,) in errors.items() if who != "others"}

    def _row(self, python: Path, folder: Path, work: str, shapes: Sequence[str]) -> Row:
        sides = {
            "weft": (sys.executable, "opcm_weft.py", folder, self.threads, *shapes),
            "theirs": (python, "opcm_fusion.py", folder, self.threads, *shapes),
            "alone": (python, "opcm_fusion.py", folder, 1, *shapes),
        }
        runs: dict[str, list[tuple[float, float, float]]] = {side: [] for side in sides}
        for turn in range(self.repeats):
            for side, command in sides.items():
                print(f"{work}: {side}, run {turn + 1}", file=sys.stderr, flush=True)
                found = _run(*command)
                runs[side].append((*found["taken"], found["others"][0]))
        times = LAYERS / self.layers if work == VIT else 1.0
        return Row(work=work, **{side: _median(found, times) for side, found in runs.items()})


def report(rows: Sequence[Row], errors: Mapping[str, float], threads: int) -> str:
    """Both beside each other, and how many times what weft takes FusionBench takes."""
    head = f"{'CPU s':>40}{'least..most':>16}{'wall s':>9}{'others':>8}"
    lines = [f"{head}   / weft: CPU, wall"]
    for row in rows:
        sides = {
            f"weft, {threads} threads": row.weft,
            f"theirs, {threads}": row.theirs,
            "theirs, 1": row.alone,
        }
        for name, taken in sides.items():
            ratios = ""
            if taken is not row.weft:
                cpu, wall = taken.cpu / row.weft.cpu, taken.wall / row.weft.wall
                aimed = row.work == VIT and taken is row.theirs
                ratios = f"{_aimed(cpu, CPU_TARGET, aimed)}, {_aimed(wall, WALL_TARGET, aimed)}"
            spread = "{:.2f}..{:.2f}".format(*taken.spread)
            lines.append(
                f"{row.work if taken is row.weft else '':15}{name:16}{taken.cpu:9.2f}{spread:>16}"
                f"{taken.wall:9.2f}{taken.others:8.2f}   {ratios}"
            )
    lines.append("relative error against float64")
    for shape in sorted({who.partition(" ")[2] for who in errors}):
        ours = errors[f"weft {shape}"]
        missed = "" if ours <= ERROR_TARGET else f" (<= {ERROR_TARGET:g}, MISSED)"
        lines.append(
            f"  {shape:12} theirs {errors[f'fusion {shape}']:.1e}, weft {ours:.1e}{missed}"
        )
    return "\n".join(lines)


def _aimed(ratio: float, least: float, aimed: bool) -> str:
    if not aimed:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} (>= {least:g}{'' if ratio >= least else ', MISSED'})"


def _median(runs: Sequence[tuple[float, float, float]], times: float) -> Taken:
    cpus, walls, others = zip(*runs, strict=True)
    return Taken(
        cpu=times * statistics.median(cpus),
        wall=times * statistics.median(walls),
        spread=(times * min(cpus), times * max(cpus)),
        others=statistics.mean(others),
    )


def _run(python: str | Path, script: str, *arguments: object) -> dict[str, list[float]]:
    used = measured([python, HERE / script, *map(str, arguments)])
    found: dict[str, list[float]] = json.loads(used.output.strip().splitlines()[-1])
    return {**found, "others": [used.others]}
