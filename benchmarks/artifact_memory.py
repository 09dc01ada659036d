"""Peak memory and speed of putting and opening artifacts, one process a measurement.

    python benchmarks/artifact_memory.py [--megabytes 200 800] [--dtype float32 bfloat16]
                                         [--tensors 20] [--folder FOLDER]

Each line is a fresh process on one thread. Speeds count the bytes of the model, not
those of the artifact: MB a second, and MB a second of the processor (what a machine
that is busy with other things cannot spoil). Files are warm. The peak is
`ru_maxrss`, beside that of a process that only imports; it must not grow with the model.
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

import torch

from weft.checkpoints.artifacts import (
    export_checkpoint,
    open_contribution,
    open_model,
    put_delta,
    put_model,
)
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store
from weft.checkpoints.writer import SafetensorsWriter

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
    print(f"{'':28}{'MB':>6} {'dtype':>9} {'MB/s':>7} {'MB/cpu s':>9} {'peak MiB':>9} {'size':>6}")
    for megabytes in options.megabytes:
        for dtype in options.dtype:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                child("make", Path(folder), str(megabytes), dtype, str(options.tensors))
                for step in STEPS:
                    found = child(step, Path(folder))
                    print(row(step, megabytes, dtype, found), flush=True)


def row(step: str, megabytes: int, dtype: str, found: dict[str, float]) -> str:
    """One line of the table."""
    speed, share = f"{'':17}", f"{'':6}"
    if found["seconds"]:
        speed = f"{megabytes / found['seconds']:7.0f} {megabytes / found['cpu_s']:9.0f}"
    if found["bytes"]:
        share = f"{found['bytes'] / MB / megabytes:6.2f}"
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
    torch.set_num_threads(1)
    if step == "make":
        make(folder)
    call = Bench(folder).steps().get(step)
    started, cpu = time.perf_counter(), time.process_time()
    size = call() if call else 0
    seconds = time.perf_counter() - started if call else 0.0
    found = {
        "seconds": seconds,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes": size,
    }
    print(json.dumps(found))


def make(folder: Path) -> None:
    """A base and a fine-tuned model: normal weights of 0.02, steps of 1e-5."""
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


class Bench:
    """What can be measured on one folder; each step returns the bytes of its artifact, or 0."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, folder / "known.json"
        self.store = Store(folder / "store")
        found = json.loads(self.known.read_text()) if self.known.exists() else {}
        self.digests: dict[str, str] = found

    def steps(self) -> dict[str, Callable[[], int]]:
        """The steps by name."""
        return {
            "put_model": self.put_base,
            "put_delta raw": lambda: self.put("raw"),
            "put_delta lossless": lambda: self.put("lossless"),
            "open_model": self.open_base,
            "open_contribution raw": lambda: self.open_delta("raw"),
            "open_contribution lossless": lambda: self.open_delta("lossless"),
            "verify": self.verify,
            "export": self.export,
        }

    def remember(self, name: str, digest: str) -> int:
        """Note a digest for the processes that follow."""
        self.known.write_text(json.dumps({**self.digests, name: digest}))
        return self.store.manifest(digest).total_bytes

    def put_base(self) -> int:
        """A file becomes a whole model in the store."""
        with open_checkpoint(self.folder / "base.safetensors") as reader:
            return self.remember("base", put_model(self.store, reader))

    def put(self, codec: str) -> int:
        """A file becomes a delta against that model."""
        against = self.digests["base"]
        with (
            open_model(self.store, against) as base,
            open_checkpoint(self.folder / "finetuned.safetensors") as finetuned,
        ):
            return self.remember(codec, put_delta(self.store, finetuned, base, against, codec))

    def open_base(self) -> int:
        """Every block of the model, verified."""
        with open_model(self.store, self.digests["base"]) as reader:
            return read_all(reader)

    def open_delta(self, codec: str) -> int:
        """Every block of the delta, verified and decoded onto the model."""
        with (
            open_model(self.store, self.digests["base"]) as base,
            open_contribution(self.store, self.digests[codec], base) as reader,
        ):
            return read_all(reader)

    def verify(self) -> int:
        """Hash the model's object."""
        return sum(bool(v.fault) for v in self.store.verify([self.digests["base"]]))

    def export(self) -> int:
        """The decoded delta as a checkpoint folder."""
        export_checkpoint(self.store, self.digests["lossless"], self.folder / "out")
        return 0


def read_all(reader: TensorReader) -> int:
    """Every block of every tensor."""
    for spec in reader.schema:
        for _ in reader.blocks(spec.name):
            pass
    return 0


if __name__ == "__main__":
    main()
