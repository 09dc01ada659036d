"""Mutated inputs of every format through the one way in: a typed error, or a reading.

Every file of every format is changed in one to four places, then opened and read whole.
By default 2,400 files and a share of single bytes; `WEFT_FUZZ_FILES=20000` makes the long
run, some minutes, that a change of a reader deserves.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.crafted import contents, model
from tests.checkpoints.folders import save_adapter, save_sharded
from tests.fuzz.test_checkpoint_files import (
    Mutation,
    cut,
    flipped,
    inserted,
    mutated,
    outcome,
    replaced,
)
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.inputs import model_digest, open_input
from weft.checkpoints.reader import INDEX_NAME, MemoryReader

FILES = int(os.environ.get("WEFT_FUZZ_FILES", "2400"))

NAMES = ("fc.weight", "mask", "scale", "empty", "ids", "embed.weight")
BASE = {name: model()[name] for name in NAMES}
WORDS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"9", b"-", b".", b"e", b"null", b"NaN"),
    *(b" ", b"\n", b"\x00", b"\xff", b'"F32"', b'"I64"', b"true", b"\x80\x02", b"(", b"R", b"s"),
    *(b"\x93", b"\x94", b"\x8c", b"h\x05", b"r\xff\xff\xff\x7f", b"\x96\xff\xff\xff\xff\xff\x00"),
    *(b"PK\x01\x02", b"PK\x05\x06", b"\x0a\x00", b"torch", b"os", b"weight", b"lora_A"),
    *(str(2**power).encode() for power in (8, 31, 32, 53, 62, 63, 64, 200)),
    *((2**power).to_bytes(9, "little") for power in (8, 31, 32, 53, 62, 63, 64)),
]


def single(folder: Path) -> None:
    save_file(BASE, folder / "model.safetensors", {"format": "pt"})


def shards(folder: Path) -> None:
    save_file({name: BASE[name] for name in NAMES[:3]}, folder / "a.safetensors")
    save_file({name: BASE[name] for name in NAMES[3:]}, folder / "b.safetensors")
    homes = ", ".join(f'"{n}": "{"ab"[i // 3]}.safetensors"' for i, n in enumerate(NAMES))
    (folder / INDEX_NAME).write_text(f'{{"weight_map": {{{homes}}}}}')


def adapter(folder: Path) -> None:
    factors = {
        "fc.lora_A.weight": torch.ones(2, 3),
        "fc.lora_B.weight": torch.ones(5, 2),
        "embed.lora_embedding_A": torch.ones(1, 33),
        "embed.lora_embedding_B": torch.ones(7, 1),
    }
    save_adapter(folder, factors, rank_pattern={"^embed": 1}, alpha_pattern={"fc": 3.5})


def delta(codec: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.rmdir()
        tuned = {name: model(1)[name] for name in NAMES}
        base = MemoryReader(BASE)
        write_delta(folder, MemoryReader(tuned), base, model_digest(base), codec)

    return write


def distributed(folder: Path) -> None:
    halves = [((0, 0), (33, 3)), ((0, 3), (33, 4))]
    save_sharded(folder, BASE, {"embed.weight": halves})


FORMATS: dict[str, Callable[[Path], None]] = {
    "single": single,
    "shards": shards,
    "adapter": adapter,
    "raw delta": delta("raw"),
    "lossless delta": delta("lossless"),
    "distributed": distributed,
}


def mutation(chance: random.Random) -> Mutation:
    place = chance.random()
    match chance.randrange(5):
        case 0:
            return flipped(place, chance.randrange(1, 256))
        case 1:
            return cut(place, chance.randrange(1, 40))
        case 2:
            return inserted(place, chance.choice(WORDS))
        case 3:
            return inserted(place, chance.randbytes(chance.randrange(1, 12)))
    return replaced(chance.choice(WORDS), chance.choice(WORDS))


def read_all(folder: Path, base: MemoryReader, digest: str) -> None:
    with open_input(folder, base, base_digest=digest) as reader:
        found = contents(reader)
        assert sum(map(len, found.values())) == reader.schema.size_bytes


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_files(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    FORMATS[kind](folder)
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    for path in files:
        path.chmod(0o644)
    base, chance = MemoryReader(BASE), random.Random(kind)
    digest = model_digest(base)
    read_all(folder, base, digest)
    refused = 0
    for _ in range(FILES // len(FORMATS)):
        path = chance.choice(sorted(files))
        changed = mutated(files[path], [mutation(chance) for _ in range(chance.randrange(1, 5))])
        path.write_bytes(changed)
        fault = outcome(lambda: read_all(folder, base, digest))
        refused += bool(fault)
        assert len(fault) < 2500
        path.write_bytes(files[path])
    assert refused > FILES // len(FORMATS) // 4
    shutil.rmtree(folder)


@pytest.mark.timeout(900)
def test_metadata_with_its_pickle_whole(tmp_path: Path) -> None:
    """Single bytes of the metadata, each replaced: more than random places reach."""
    distributed(tmp_path)
    path = tmp_path / ".metadata"
    good, base = path.read_bytes(), MemoryReader(BASE)
    step = max(len(good) * 3 // max(FILES // 4, 1), 1)
    for place in range(0, len(good), step):
        for value in (0, 0xFF, good[place] ^ 1):
            path.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            assert len(outcome(lambda: read_all(tmp_path, base, ""))) < 2500
