"""OPCM's projection from full decompositions in float64; prints errors of what is there.

    python benchmarks/peers/opcm_reference.py FOLDER 768x768 ...

Reads FOLDER/SHAPE.safetensors, and FOLDER/{weft,fusion}-*.result, and prints by "who shape"
the relative error in the Frobenius norm.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ALPHA = 0.5


def main() -> None:
    folder = Path(sys.argv[1])
    errors = {}
    for shape in sys.argv[2:]:
        tasks = load_file(folder / f"{shape}.safetensors")
        total = (tasks["task0"] + tasks["task1"] + tasks["task2"]).astype(np.float64)
        expected = projected(total, tasks["task3"].astype(np.float64))
        for path in sorted(folder.glob("*.result")):
            found = load_file(path)
            if shape in found:
                difference = np.linalg.norm(found[shape] - expected)
                who = f"{path.name.partition('-')[0]} {shape}"
                errors[who] = [float(difference / np.linalg.norm(expected))]
    print(json.dumps(errors))


def projected(total: np.ndarray, newcomer: np.ndarray) -> np.ndarray:
    """U (Z without its diagonal and its leading block) V^T."""
    u, s, vt = np.linalg.svd(total, full_matrices=True)
    block = int((np.cumsum(s) / s.sum() <= ALPHA).sum())
    z = u.T @ newcomer @ vt.T
    np.fill_diagonal(z, 0)
    z[:block, :block] = 0
    clean: np.ndarray = u @ z @ vt
    return clean


if __name__ == "__main__":
    main()
