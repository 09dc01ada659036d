"""Bytes in stores, for tests that need no torch."""

import os
import random
from collections.abc import Mapping
from pathlib import Path

from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store

CHUNK = 2**20
SIZES = {"a": 2 * CHUNK + 100, "b": 5, "c": 0, "d": CHUNK}
"""Three chunks, one, none, one."""


def schema_of_sizes(sizes: Mapping[str, int] = SIZES) -> Schema:
    return Schema(tuple(TensorSpec(name, "U8", (size,)) for name, size in sizes.items()))


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def put_bytes(store: Store, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> str:
    """Put U8 tensors of random bytes; the same seed and sizes are the same artifact."""
    schema = schema_of_sizes(sizes)
    with store.deposit(schema, kind="model", metadata={"seed": str(seed)}) as deposit:
        for number, spec in enumerate(schema):
            deposit.write(spec.name, [random_bytes(seed + number, spec.size_bytes)])
    return deposit.digest


def fetch(source: Store, target: Store, digest: str) -> str:
    """Copy an artifact from one store to another as a node would."""
    with target.stage(source.manifest_bytes(digest)) as staging:
        for start, stop in staging.missing():
            for index in range(start, stop):
                staging.write_chunk(index, source.read_chunk(digest, index))
        return staging.commit()


def set_age(path: Path, written_at: float) -> None:
    """Make a folder and all in it look as if it was written at that time."""
    for entry in [*path.iterdir(), path]:
        os.utime(entry, (written_at, written_at), follow_symlinks=False)


def flip(path: Path, position: int, mask: int = 1) -> None:
    """Change one byte of a file, read-only or not."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ mask]))
