"""The head of a stream: one plain model folder that other programs open at any moment.

    config.json, tokenizer.json, ...             the base's companions, from the start
    model-g000012-00001-of-00002.safetensors     shards; the generation is in their names
    model.safetensors.index.json                 names the shards of the newest generation
    .g000012.index.json                          the same for each generation that is kept

The index is renamed last, so whoever opens it reads one whole generation; shards of some
generations before it stay, so whoever opened the old one reads on.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from torch import Tensor

from weft.checkpoints.disk import disk_errors, require_space, sync_folder, write_bytes
from weft.checkpoints.errors import MissingCheckpoint
from weft.checkpoints.reader import INDEX_NAME, ShardedReader
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.shard_set import ShardSet
from weft.checkpoints.shards import Shard, index_bytes, plan_shards
from weft.checkpoints.sidecars import Sidecar
from weft.checkpoints.writer import TORCH_METADATA
from weft.node.continual.records import Generation

BlocksOf = Callable[[TensorSpec], Iterable[Tensor]]
GENERATION_KEY: Final = "weft_generation"
ROOM: Final = 2**20
GRACE_S: Final = 10.0
CANDIDATE: Final = "candidate"


class HeadFolder:
    """The folder of a stream's heads; one writer.

    Args:
        folder: made where it does not exist.
        schema: of the model.
        shard_bytes: the most bytes of tensors in one file.

    Attributes:
        grace_s: so long the files of a generation stay at least once it is not the newest.
    """

    grace_s: float = GRACE_S

    def __init__(self, folder: Path, schema: Schema, shard_bytes: int) -> None:
        self.path = folder
        self._schema = schema
        self._shard_bytes = shard_bytes
        self._planned = plan_shards(schema, shard_bytes, TORCH_METADATA)

    def begin(self, sidecars: Sequence[Sidecar]) -> None:
        """Make the folder, with the files that go with the model."""
        with disk_errors(self.path):
            self.path.mkdir(exist_ok=True)
            for each in sidecars:
                each.copy_to(self.path, each.digest())
            sync_folder(self.path)

    def write(self, generation: int, blocks_of: BlocksOf) -> str:
        """Write the shards of a generation, durably; nobody sees them before `publish`.

        Returns:
            The digest of the model.

        Raises:
            DiskFull: no room.
        """
        self._drop(generation)
        require_space(self.path, self._schema.size_bytes + ROOM)
        shards = self._shards(generation)
        writing = ShardSet(self.path, shards, TORCH_METADATA)
        writing.take_over("")
        try:
            for spec in list(writing.waiting):
                writing.write(spec, blocks_of(spec))
        except BaseException as error:
            writing.abandon(error)
            raise
        digest = writing.digest()
        write_bytes(self.path / _own_index(generation), _index(shards, generation, digest))
        writing.remove_records()
        return digest

    def publish(self, generation: Generation) -> None:
        """Let readers see a generation, in one step; again, it changes nothing."""
        if self.published() != generation.number:
            document = (self.path / _own_index(generation.number)).read_bytes()
            write_bytes(self.path / INDEX_NAME, document)

    def published(self) -> int | None:
        """The generation that readers see; None: none yet."""
        try:
            document = json.loads((self.path / INDEX_NAME).read_bytes())
            return int(document["metadata"][GENERATION_KEY])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def has(self, generation: int) -> bool:
        """Whether a generation can still be read."""
        names = [_own_index(generation), *(shard.name for shard in self._shards(generation))]
        return all((self.path / name).exists() for name in names)

    def open(self, generation: int) -> ShardedReader:
        """A generation that is kept.

        Raises:
            MissingCheckpoint: it is not kept any more.
        """
        if not self.has(generation):
            raise MissingCheckpoint(
                f"{self.path}: generation {generation} is not kept any more; the stream retains"
                " only the newest ones (--retain)"
            )
        return ShardedReader(self.path / _own_index(generation))

    def keep_only(self, generations: Iterable[int]) -> None:
        """Remove the files of all other generations, but for those that were the head just now.

        A reader may have read the index and not yet opened the shards that it names.
        """
        kept = {_mark(number) for number in generations} | self._just_now()
        for name in os.listdir(self.path):
            mark = _mark_of(name)
            if mark and mark not in kept:
                (self.path / name).unlink(missing_ok=True)

    def _just_now(self) -> set[str]:
        """Marks of generations whose successor was made within the grace, or not yet."""
        made: dict[int, float] = {}
        for path in self.path.glob(".g*.index.json"):
            with suppress(FileNotFoundError):
                made[int(_mark_of(path.name)[1:])] = path.stat().st_mtime
        now = time.time()
        return {_mark(number) for number in made if now - made.get(number + 1, now) < self.grace_s}

    @contextmanager
    def candidate(self, generation: int) -> Iterator[Path]:
        """A generation that is not published, as a model folder of its own, for a look."""
        folder = self.path.parent / CANDIDATE
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            for name in os.listdir(self.path):
                if _mark_of(name) in ("", _mark(generation)) and name != INDEX_NAME:
                    os.link(self.path / name, folder / name)
            os.rename(folder / _own_index(generation), folder / INDEX_NAME)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _drop(self, generation: int) -> None:
        """What a process that was killed has left of a generation that never was."""
        for name in os.listdir(self.path):
            if _mark_of(name) == _mark(generation):
                with suppress(FileNotFoundError):
                    (self.path / name).unlink()

    def _shards(self, generation: int) -> tuple[Shard, ...]:
        count = len(self._planned)
        return tuple(
            replace(shard, name=f"model-{_mark(generation)}-{at:05}-of-{count:05}.safetensors")
            for at, shard in enumerate(self._planned, 1)
        )


def _mark(generation: int) -> str:
    return f"g{generation:06}"


def _own_index(generation: int) -> str:
    return f".{_mark(generation)}.index.json"


def _mark_of(name: str) -> str:
    """The generation's mark in the name of a file; empty where it belongs to none."""
    bare = name.removeprefix(".").removeprefix("model-")
    mark = bare.replace(".", "-").partition("-")[0]
    belongs = name.startswith((".g", "model-g", ".model-g"))
    return mark if belongs and mark[1:].isdecimal() else ""


def _index(shards: Sequence[Shard], generation: int, digest: str) -> bytes:
    document = json.loads(index_bytes(shards))
    document["metadata"] |= {GENERATION_KEY: generation, "weft_digest": digest}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()
