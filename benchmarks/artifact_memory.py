"""Peak memory and speed of putting and opening artifacts, one process a measurement.

    python benchmarks/artifact_memory.py [--megabytes 200 800] [--dtype float32 bfloat16]
                                         [--tensors 20] [--folder FOLDER]

Each line is a fresh process on one thread. MB/s counts the bytes of the model, not
those of the artifact; files are warm. The peak is `ru_maxrss`, beside that of a
process that only imports. It must not grow with the model.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MB = 1_000_000
STEPS = (
    "import",
    "put_model",
    "put_delta raw",
    "put_delta lossless",
    "open_model",
    "open_contribution raw",
    "open_contribution lossless",
    "verify",
    "export",
)


def main() -> None:
    """Make the files, measure every step, print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[200, 800])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tensors", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        measure(options.step[0], Path(options.step[1]))
        return
    print(f"{'':28}{'MB':>6} {'dtype':>9} {'MB/s':>7} {'peak MiB':>9} {'of model':>9}")
    for megabytes in options.megabytes:
        for dtype in options.dtype:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                child("make", Path(folder), str(megabytes), dtype, str(options.tensors))
                for step in STEPS:
                    found = child(step, Path(folder))
                    print(row(step, megabytes, dtype, found), flush=True)


def row(step: str, megabytes: int, dtype: str, found: dict[str, float]) -> str:
    """One line of the table."""
    speed = f"{megabytes / found['seconds']:7.0f}" if found["seconds"] else f"{'':7}"
    share = f"{found['bytes'] / MB / megabytes:9.2f}" if found["bytes"] else f"{'':9}"
    return f"{step:28}{megabytes:6} {dtype:>9} {speed} {found['peak_mib']:9.0f} {share}"


def child(step: str, folder: Path, *arguments: str) -> dict[str, float]:
    """Run one step in a process of its own."""
    if arguments:
        (folder / "make.json").write_text(json.dumps(arguments))
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, str(folder)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(step: str, folder: Path) -> None:
    """Do one step and print what it took."""
    import torch

    torch.set_num_threads(1)
    if step == "make":
        make(folder)
    call = steps(folder).get(step)
    started = time.perf_counter()
    size = call() if call else 0
    seconds = time.perf_counter() - started if call else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "bytes": size}))


def make(folder: Path) -> None:
    """A base and a fine-tuned model: normal weights of 0.02, steps of 1e-5."""
    import torch

    from weft.checkpoints.schema import Schema, TensorSpec
    from weft.checkpoints.writer import SafetensorsWriter

    megabytes, dtype, tensors = json.loads((folder / "make.json").read_text())
    torch_dtype = getattr(torch, dtype)
    elements = int(megabytes) * MB // torch_dtype.itemsize // int(tensors)
    name = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}[dtype]
    schema = Schema(
        tuple(TensorSpec(f"layer.{i:03}.weight", name, (elements,)) for i in range(int(tensors)))
    )
    generator = torch.Generator().manual_seed(0)
    with (
        SafetensorsWriter(folder / "base.safetensors", schema) as base,
        SafetensorsWriter(folder / "finetuned.safetensors", schema) as finetuned,
    ):
        for spec in schema:
            weights = 0.02 * torch.randn(elements, generator=generator)
            steps = 1e-5 * torch.randn(elements, generator=generator)
            base.write(spec.name, weights.to(torch_dtype))
            finetuned.write(spec.name, (weights + steps).to(torch_dtype))


def steps(folder: Path) -> dict[str, Callable[[], int]]:
    """What can be measured; each returns the bytes of its artifact, or 0."""
    from weft.checkpoints.artifacts import (
        export_checkpoint,
        open_contribution,
        open_model,
        put_delta,
        put_model,
    )
    from weft.checkpoints.reader import TensorReader, open_checkpoint
    from weft.checkpoints.store import Store

    store, known = Store(folder / "store"), folder / "known.json"
    digests: dict[str, str] = json.loads(known.read_text()) if known.exists() else {}

    def remember(name: str, digest: str) -> int:
        known.write_text(json.dumps({**digests, name: digest}))
        return store.manifest(digest).total_bytes

    def put_base() -> int:
        with open_checkpoint(folder / "base.safetensors") as reader:
            return remember("base", put_model(store, reader))

    def put(codec: str) -> int:
        with (
            open_model(store, digests["base"]) as base,
            open_checkpoint(folder / "finetuned.safetensors") as finetuned,
        ):
            return remember(codec, put_delta(store, finetuned, base, digests["base"], codec))

    def read_all(reader: TensorReader) -> int:
        for spec in reader.schema:
            for _ in reader.blocks(spec.name):
                pass
        return 0

    def open_base() -> int:
        with open_model(store, digests["base"]) as reader:
            return read_all(reader)

    def open_delta(codec: str) -> int:
        with (
            open_model(store, digests["base"]) as base,
            open_contribution(store, digests[codec], base) as reader,
        ):
            return read_all(reader)

    def verify() -> int:
        return sum(bool(v.fault) for v in store.verify([digests["base"]]))

    def export() -> int:
        export_checkpoint(store, digests["lossless"], folder / "out")
        return 0

    return {
        "put_model": put_base,
        "put_delta raw": lambda: put("raw"),
        "put_delta lossless": lambda: put("lossless"),
        "open_model": open_base,
        "open_contribution raw": lambda: open_delta("raw"),
        "open_contribution lossless": lambda: open_delta("lossless"),
        "verify": verify,
        "export": export,
    }


if __name__ == "__main__":
    main()
