"""How far weft's results are from those of mergekit and FusionBench, method by method.

    python benchmarks/merge_agreement.py [--cache ~/.cache/weft-bench] [--json FILE]
                                         [--torch-index URL]

A small Llama model and four fine-tunes in float32; all three compute in float64 and give
float64 back, so that what differs is the method and not the rounding; weft's sums are exact
ones, on a grid, which leaves about 1e-11. mergekit and weft
read the same recipe. Of FusionBench the functions themselves are called. "largest" is the
largest difference over the largest change of the reference, over all elements;
"norm" the same with Frobenius norms; "apart" the share of elements that differ by more
than a millionth of the largest change. Methods that draw at random are compared by the
share that is kept and by the cosine and the length against the same sum without a drop.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from peers import recipes
from peers.checkpoints import Models, models_of
from peers.environments import FUSION_BENCH, MERGEKIT, NotThere, python_of
from peers.recipes import RECIPES
from safetensors.torch import load_file
from torch import Tensor

Model = Mapping[str, Tensor]

CHANGE = 0.02
"""Large, so that no rule for tiny task vectors takes over in either tool."""

RANDOM = ("dare_linear", "dare_ties", "della_linear", "della")
SAME = "the same formula"
REASONS = {
    "mean": SAME,
    "task_arithmetic": SAME,
    "ties": "the same cut and election; sums of exactly zero: ours keeps the base",
    "breadcrumbs": SAME,
    "breadcrumbs_ties": SAME,
    "sce": SAME,
    "sce, all": SAME,
    "model_stock": SAME,
    "slerp": SAME,
    "nuslerp": SAME,
    "multislerp": "the same; theirs adds 1e-8 to lengths",
    "karcher": "the same point; both iterate until a step of 1e-7",
    "ram": SAME,
    "ramplus_tl": SAME,
    "dare_linear": "other draws; both keep the L1 norm of each task vector",
    "dare_ties": "other draws; both keep the L1 norm of each task vector",
    "della_linear": "other draws; ours divides by each share kept, theirs keeps the L1 norm",
    "della": "other draws; ours divides by each share kept, theirs keeps the L1 norm",
}

FUSION: Mapping[str, tuple[tuple[str, ...], str]] = {
    "tsv_m": (("-m", "tsv_m"), SAME),
    "iso_c": (("-m", "iso_c"), SAME),
    "iso_cts": (("-m", "iso_cts", "--set", "common=0.8"), SAME),
    "wudi": (("-m", "wudi"), "theirs: 300 steps of Adam; ours: gradient flow in closed form"),
    "magmax": (("-m", "magmax", "--set", "scale=1"), SAME),
    "emr": (("-m", "emr"), SAME),
    "ties": (("-m", "ties", "--set", "density=0.2"), "the same; ranks over the whole model"),
    "svc": (
        ("-m", "task_arithmetic", "--set", "scale=1", "--after", "svc:alpha=0.1"),
        "the same where all shares are positive, as here",
    ),
}
"""By FusionBench's function: weft's options and why there is a difference."""

HEAD = f"{'largest':>10}{'norm':>10}{'apart':>8}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/weft-bench"))
    parser.add_argument("--torch-index", default="", help="a further index to take torch from")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    cache = given.cache.expanduser().absolute()
    models = models_of(cache, "tiny", "float32", CHANGE)
    scratch = Path(tempfile.mkdtemp(prefix="agreement-", dir=cache))
    found: dict[str, dict[str, object]] = {}
    try:
        for name, compare in (("mergekit", mergekit), ("fusion-bench", fusion)):
            try:
                found[name] = compare(cache, scratch, models, given.torch_index)
            except NotThere as reason:
                print(reason)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


def mergekit(cache: Path, scratch: Path, models: Models, index: str) -> dict[str, object]:
    """Every recipe by both tools."""
    python = python_of(MERGEKIT, cache, index)
    print(f"\nto mergekit 0.1.5   {HEAD}  why")
    found: dict[str, object] = {}
    results: dict[str, tuple[Model, Model]] = {}
    for name, recipe in RECIPES.items():
        path = recipe.write(scratch / "recipe.yaml", models, "float64")
        theirs = result([python, *recipes.mergekit(path, scratch / "theirs")], scratch / "theirs")
        ours = result([sys.executable, *recipes.weft(path, scratch / "ours")], scratch / "ours")
        results[name] = ours, theirs
        if name not in RANDOM:
            origin = read(models.base)
            found[name] = show(name, ours, theirs, origin, REASONS[name])
    print(f"\nrandom, to mergekit{'kept':>12}{'theirs':>8}{'cosine':>8}{'theirs':>8}", end="")
    print(f"{'length':>8}{'theirs':>8}  why")
    base, (whole, _) = read(models.base), results["task_arithmetic"]
    for name in RANDOM:
        pairs = [statistics_of(model, base, whole) for model in results[name]]
        cells = "".join(f"{pairs[who][row]:8.3f}" for row in range(3) for who in range(2))
        print(f"  {name:21}{cells}  {REASONS[name]}", flush=True)
        found[name] = {"ours": pairs[0], "theirs": pairs[1]}
    return found


def fusion(cache: Path, scratch: Path, models: Models, index: str) -> dict[str, object]:
    """FusionBench's functions against weft's command."""
    python = python_of(FUSION_BENCH, cache, index)
    script = Path(__file__).parent / "peers" / "fusion_methods.py"
    run([python, script, scratch, *models.all])
    base = read(models.base)
    print(f"\nto FusionBench 0.2.33 {HEAD}  why")
    found: dict[str, object] = {}
    for name, (options, reason) in FUSION.items():
        changes = load_file(scratch / f"{name}.safetensors")
        theirs = {tensor: base[tensor] + change for tensor, change in changes.items()}
        out = scratch / "ours"
        command = [sys.executable, "-m", "weft.cli", "merge", *options, "--base", models.base]
        command += ["--dtype", "float64", "--out", out, *models.tuned]
        found[name] = show(name, result(command, out), theirs, base, reason)
    return found


def show(name: str, ours: Model, theirs: Model, base: Model, reason: str) -> dict[str, float]:
    """One row, printed; its figures."""
    apart = flat(ours) - flat(theirs)
    change = flat(theirs) - flat(base)
    most = float(change.abs().max())
    figures = {
        "largest": float(apart.abs().max()) / most,
        "norm": float(apart.norm() / change.norm()),
        "apart": float((apart.abs() > 1e-6 * most).double().mean()),
    }
    print(
        f"  {name:18}{figures['largest']:10.1e}{figures['norm']:10.1e}{figures['apart']:8.4f}"
        f"  {reason}",
        flush=True,
    )
    return figures


def statistics_of(merged: Model, base: Model, whole: Model) -> tuple[float, float, float]:
    """Share of elements that changed; cosine with the whole sum, and length beside it."""
    change, full = flat(merged) - flat(base), flat(whole) - flat(base)
    cosine = float(change @ full / (change.norm() * full.norm()))
    return float((change != 0).double().mean()), cosine, float(change.norm() / full.norm())


def flat(model: Model) -> Tensor:
    """All elements, sorted by tensor."""
    return torch.cat([model[name].flatten() for name in sorted(model)])


def result(command: list[str | Path], out: Path) -> Model:
    """What a command that writes a model folder gives; the folder goes."""
    shutil.rmtree(out, ignore_errors=True)
    run(command)
    return read(out)


def run(command: list[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]}: exit {done.returncode}: {done.stderr[-1500:]}")


def read(folder: Path) -> Model:
    """All tensors in float64."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {name: value.double() for name, value in load_file(path).items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
