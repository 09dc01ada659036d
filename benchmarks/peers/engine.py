"""The measurements of whole merges: weft, mergekit, and the floors."""

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from peers import recipes
from peers.checkpoints import Models, models_of
from peers.environments import MERGEKIT, NotThere, python_of
from peers.process import Usage, measured
from peers.recipes import RECIPES

METHODS = (
    *("mean", "task_arithmetic", "ties", "dare_ties", "della"),
    *("breadcrumbs", "sce", "model_stock", "slerp"),
)
FLOORS = ("mean", "task_arithmetic")
SUMS = ("float32", "exact")
DTYPE = "bfloat16"
RUN_FLOOR = Path(__file__).with_name("floors.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Medians of some runs of one program.

    Attributes:
        cpu: seconds; `net_cpu` without start-up.
        wall: seconds; `net_wall` without start-up.
        spread: least and most CPU seconds.
        peak_mib: of the run with the highest.
        others: share of all cores that others held, the mean of the runs.
    """

    cpu: float
    wall: float
    net_cpu: float
    net_wall: float
    spread: tuple[float, float]
    peak_mib: float
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRow:
    """One method beside its floors; the floors' seconds are of their loops alone."""

    method: str
    move: Figure
    arithmetic: Figure
    weft: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRow:
    """One method by weft, with either kind of sums, and by mergekit."""

    method: str
    weft: Mapping[str, Figure]
    mergekit: Figure


class Bench:
    """Runs merges and keeps nothing of what they write.

    Args:
        cache: holds models and environments.
        repeats: runs of each.
        threads: of weft; 0: one a core.
        torch_index: where other tools may take torch from.
    """

    def __init__(self, *, cache: Path, repeats: int, threads: int, torch_index: str) -> None:
        self.cache = cache
        self._repeats = repeats
        self._threads = ("--threads", str(threads))
        self._torch_index = torch_index

    def startup(self) -> dict[str, Figure]:
        """A merge of a tiny model by weft, and by mergekit where it is to be had."""
        models = models_of(self.cache, "tiny", DTYPE)
        runs = {"weft": lambda: self._weft(models, "mean", "float32")}
        try:
            python = python_of(MERGEKIT, self.cache, self._torch_index)
            runs["mergekit"] = lambda: self._mergekit(python, models, "mean")
        except NotThere as reason:
            print(reason, file=sys.stderr)
        for run in runs.values():
            run()  # compiles bytecode, warms the disk's cache
        return self._in_turns(runs, at_least=5)

    def floors(self, size: str, startup: Mapping[str, Figure]) -> list[FloorRow]:
        """Methods that are little more than moving bytes."""
        models = models_of(self.cache, size, DTYPE)
        models.warm()
        rows = []
        for method in FLOORS:
            used = models.all if RECIPES[method].based else models.tuned
            runs: dict[str, Callable[[], Usage]] = {
                "move": lambda used=used: self._floor("move", used),
                "arithmetic": lambda used=used, method=method: self._floor(method, used),
            }
            for sums in SUMS:
                runs[sums] = lambda method=method, sums=sums: self._weft(models, method, sums)
            found = self._in_turns(runs)
            rows.append(
                FloorRow(
                    method=method,
                    move=found["move"],
                    arithmetic=found["arithmetic"],
                    weft={sums: net(found[sums], startup["weft"]) for sums in SUMS},
                )
            )
        return rows

    def against_mergekit(
        self, size: str, methods: Sequence[str], startup: Mapping[str, Figure]
    ) -> list[PeerRow]:
        """All methods that both have."""
        models = models_of(self.cache, size, DTYPE)
        models.warm()
        python = python_of(MERGEKIT, self.cache, self._torch_index)
        rows = []
        for method in methods:
            print(f"{size} {method}", file=sys.stderr, flush=True)
            runs: dict[str, Callable[[], Usage]] = {
                sums: lambda method=method, sums=sums: self._weft(models, method, sums)
                for sums in SUMS
            }
            runs["mergekit"] = lambda method=method: self._mergekit(python, models, method)
            found = self._in_turns(runs)
            rows.append(
                PeerRow(
                    method=method,
                    weft={sums: net(found[sums], startup["weft"]) for sums in SUMS},
                    mergekit=net(found["mergekit"], startup["mergekit"]),
                )
            )
        return rows

    def _in_turns(
        self, runs: Mapping[str, Callable[[], Usage]], at_least: int = 1
    ) -> dict[str, Figure]:
        """One run of each after the other, so that a busy minute hits all alike."""
        taken: dict[str, list[Usage]] = {name: [] for name in runs}
        for _ in range(max(self._repeats, at_least)):
            for name, run in runs.items():
                taken[name].append(run())
        return {name: figure(usages) for name, usages in taken.items()}

    def _weft(self, models: Models, method: str, sums: str) -> Usage:
        with self._scratch() as scratch:
            recipe = RECIPES[method].write(scratch / "recipe.yaml", models, DTYPE)
            more = ("--sums", sums, *self._threads)
            return measured([sys.executable, *recipes.weft(recipe, scratch / "out", *more)])

    def _mergekit(self, python: Path, models: Models, method: str) -> Usage:
        with self._scratch() as scratch:
            recipe = RECIPES[method].write(scratch / "recipe.yaml", models, DTYPE)
            return measured([python, *recipes.mergekit(recipe, scratch / "out")])

    def _floor(self, method: str, used: Sequence[Path]) -> Usage:
        """Its own account of the loop, and what the system says of the rest."""
        with self._scratch() as scratch:
            usage = measured([sys.executable, RUN_FLOOR, method, scratch / "out", *used])
        loop = json.loads(usage.output)
        return replace(usage, cpu=loop["cpu"], wall=loop["wall"])

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder beside the models, so on the same disk."""
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.cache))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def figure(usages: Sequence[Usage]) -> Figure:
    """Medians, nothing taken off."""
    cpu = statistics.median(usage.cpu for usage in usages)
    wall = statistics.median(usage.wall for usage in usages)
    return Figure(
        cpu=cpu,
        wall=wall,
        net_cpu=cpu,
        net_wall=wall,
        spread=(min(usage.cpu for usage in usages), max(usage.cpu for usage in usages)),
        peak_mib=max(usage.peak_mib for usage in usages),
        others=statistics.mean(usage.others for usage in usages),
    )


def net(whole: Figure, startup: Figure) -> Figure:
    """Without what a merge of next to nothing takes; at least a hundredth of a second."""
    return replace(
        whole,
        net_cpu=max(whole.cpu - startup.cpu, 0.01),
        net_wall=max(whole.wall - startup.wall, 0.01),
    )
