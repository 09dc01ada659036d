"""Task vectors with a falling spectrum, and the spectral methods on them in float64.

    python benchmarks/peers/spectral_matrices.py make FOLDER 768x768 ...
    python benchmarks/peers/spectral_matrices.py compare FOLDER tsv_m ...

`make` writes FOLDER/SHAPE.safetensors, four float32 matrices each. `compare` reads
FOLDER/{fusion,weft}-METHOD.safetensors and prints relative errors.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

TASKS = 4
DENSITY = 0.2
FLOOR = 1e-5


def make(folder: Path, shapes: Sequence[str]) -> None:
    """Singular values i^-0.7 over a noise floor; a part of the directions is shared."""
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        rows, columns = (int(side) for side in shape.split("x"))
        rank = min(rows, columns)
        values = torch.arange(1, rank + 1) ** -0.7
        shared = torch.randn(rows, columns, generator=generator)
        made = {}
        for task in range(TASKS):
            own = torch.randn(rows, columns, generator=generator) + 0.3 * shared
            left, _, right = torch.linalg.svd(own, full_matrices=False)
            noise = torch.randn(rows, columns, generator=generator) * 1e-4
            made[f"task{task}"] = ((left * values) @ right + noise).contiguous()
        save_file(made, folder / f"{shape}.safetensors")


def compare(folder: Path, methods: Sequence[str]) -> dict[str, float]:
    """By "who method shape"."""
    errors = {}
    for method in methods:
        results = {who: load_file(folder / f"{who}-{method}.safetensors") for who in PEOPLE}
        for shape in results["weft"]:
            tasks = load_file(folder / f"{shape}.safetensors")
            deltas = [tasks[name].astype(np.float64) for name in sorted(tasks)]
            reference = REFERENCES[method](deltas)
            for who in PEOPLE:
                difference = results[who][shape].astype(np.float64) - reference
                error = np.linalg.norm(difference) / np.linalg.norm(reference)
                errors[f"{who} {method} {shape}"] = float(error)
    return errors


def tsv_m(deltas: Sequence[np.ndarray]) -> np.ndarray:
    """TSV-M as its authors have it."""
    kept = min(deltas[0].shape) // len(deltas)
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = _nearest(np.hstack([u[:, :kept] for u, _, _ in parts]))
    right = _nearest(np.vstack([v[:kept] for _, _, v in parts]))
    merged: np.ndarray = left * np.concatenate([s[:kept] for _, s, _ in parts]) @ right
    return merged


def iso_c(deltas: Sequence[np.ndarray]) -> np.ndarray:
    """Iso-C as its authors have it."""
    u, s, v = np.linalg.svd(sum(deltas), full_matrices=False)
    levelled: np.ndarray = s.mean() * (u @ v)
    return levelled


def knots(deltas: Sequence[np.ndarray]) -> np.ndarray:
    """KnOTS, then TIES with the mean of those that agree."""
    u, s, v = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    u, v = u[:, s > FLOOR], (s[:, None] * v)[s > FLOOR]
    parts = np.stack([_top(part) for part in np.split(v, len(deltas), axis=1)])
    agree = parts * parts.sum(0) > 0
    merged: np.ndarray = u @ (np.where(agree, parts, 0).sum(0) / np.maximum(agree.sum(0), 1))
    return merged


def _nearest(vectors: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(vectors, full_matrices=False)
    nearest: np.ndarray = u @ v
    return nearest


def _top(values: np.ndarray) -> np.ndarray:
    place = values.size - int(values.size * DENSITY) - 1
    cut = np.partition(np.abs(values), place, axis=None)[place]
    kept: np.ndarray = np.where(np.abs(values) >= cut, values, 0.0)
    return kept


PEOPLE = ("fusion", "weft")
REFERENCES = {"tsv_m": tsv_m, "iso_c": iso_c, "knots": knots}

if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3:])
        print("{}")
    else:
        print(json.dumps(compare(Path(sys.argv[2]), sys.argv[3:])))
