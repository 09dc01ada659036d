"""Spectral methods on matrices in memory: weft beside FusionBench, against float64.

The matrices are made, and the results compared, in processes of their own: whoever
measures stays small.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peers.environments import FUSION_BENCH, python_of
from peers.process import measured

HERE = Path(__file__).parent
METHODS = ("tsv_m", "iso_c", "knots")
SHAPES = {"768x768": 48, "3072x768": 12, "768x3072": 12}
"""The linear weights of a ViT-B/32 encoder, and how often they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One method on one shape, or summed over a whole model.

    Attributes:
        theirs: CPU seconds of FusionBench's functions; `ours`: of weft's method.
        their_error: relative error, in the Frobenius norm, to the same in float64.
        whole: whether it is the sum.
    """

    method: str
    shape: str
    theirs: float
    ours: float
    their_error: float
    our_error: float
    whole: bool = False


def compare(cache: Path, repeats: int, torch_index: str = "") -> list[Case]:
    """Every method on every shape, then the sums.

    Raises:
        NotThere: FusionBench cannot be installed.
    """
    python = python_of(FUSION_BENCH, cache, torch_index)
    folder = Path(tempfile.mkdtemp(prefix="spectral-", dir=cache))
    try:
        _run(sys.executable, "spectral_matrices.py", "make", folder, *SHAPES)
        ours, theirs = {}, {}
        for method in METHODS:
            print(f"spectral {method}", file=sys.stderr, flush=True)
            theirs |= _run(python, "spectral_fusion.py", folder, method, repeats)
            ours |= _run(sys.executable, "spectral_weft.py", folder, method, repeats)
        errors = _run(sys.executable, "spectral_matrices.py", "compare", folder, *METHODS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [case for method in METHODS for case in _cases(method, ours, theirs, errors)]


def _run(python: str | Path, script: str, *arguments: object) -> dict[str, float]:
    words = [str(argument) for argument in arguments]
    # No thread may spin beside the one that is measured.
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    output = measured([python, HERE / script, *words], env=one).output
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def _cases(
    method: str,
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    errors: Mapping[str, float],
) -> list[Case]:
    cases = []
    for shape in SHAPES:
        key = f"{method} {shape}"
        cases.append(
            Case(
                method=method,
                shape=shape,
                theirs=theirs[key],
                ours=ours[key],
                their_error=errors[f"fusion {key}"],
                our_error=errors[f"weft {key}"],
            )
        )
    total = Case(
        method=method,
        shape="ViT-B/32, all of them",
        theirs=sum(count * theirs[f"{method} {shape}"] for shape, count in SHAPES.items()),
        ours=sum(count * ours[f"{method} {shape}"] for shape, count in SHAPES.items()),
        their_error=max(case.their_error for case in cases),
        our_error=max(case.our_error for case in cases),
        whole=True,
    )
    return [*cases, total]
