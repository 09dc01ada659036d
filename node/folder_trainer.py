"""Training as two folders: any program that watches one and writes the other.

    FOLDER/in/round-000003/    model.safetensors, perhaps state, request.json
    FOLDER/out/round-000003/   model.safetensors, perhaps state, then done.json

The node writes the first folder whole (it appears by a rename) and waits for the
second, which is taken when `done.json` is in it: write that file last. It holds a
JSON object of metrics, or `{}`. A training that failed says so with a file
`failed.txt` instead, whose last line is passed on.

`request.json`: {"round", "seed", "fresh_optimizer", "model" (blake3 of the file)}.
A node that restarts asks again for the same; what was already answered is taken.
"""

import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Final

import structlog
from blake3 import blake3

from weft.checkpoints.disk import sync_folder, write_bytes
from weft.errors import TrainingFailed
from weft.node.child_processes import last_line
from weft.node.errors import TrainerSilent, TrainerStopped
from weft.node.external_results import read_metrics, take_result
from weft.node.trainer import Metrics
from weft.node.training_messages import (
    TrainerFacts,
    TrainRequest,
    TrainResult,
)
from weft.node.without_module import WithoutModule

log = structlog.get_logger(__name__)

_REMIND_S: Final = 60.0


class FolderTrainer(WithoutModule):
    """A `TrainerBackend` that hands rounds over in folders.

    Args:
        folder: holds `in` and `out`; they are made where they do not exist.
        data_size: how many samples this node has, if it says so.
        timeout_s: how long a round may take; None: for ever.
        poll_s: how often `out` is looked at.
    """

    def __init__(
        self,
        folder: Path,
        *,
        data_size: int | None = None,
        timeout_s: float | None = None,
        poll_s: float = 0.5,
    ) -> None:
        super().__init__(f"the training folder {folder}")
        self._in, self._out = folder / "in", folder / "out"
        self._data_size = data_size
        self._timeout_s, self._poll_s = timeout_s, poll_s
        self._lock = asyncio.Lock()
        self._stopped = False

    async def start(self) -> TrainerFacts:
        """See `TrainerBackend`; makes the folders."""
        for folder in (self._in, self._out):
            folder.mkdir(parents=True, exist_ok=True)
        return TrainerFacts(
            name=str(self._in.parent), device="its own", keeps_state=True, data_size=self._data_size
        )

    async def train(self, request: TrainRequest) -> TrainResult:
        """See `TrainerBackend`."""
        async with self._lock:
            await self.start()
            self._stopped = False
            name, when = f"round-{request.round:06d}", f"round {request.round}"
            began = time.monotonic()
            await asyncio.to_thread(self._hand_over, name, request)
            await self._whole(self._out / name, when)
            seconds = time.monotonic() - began
            metrics = read_metrics(self._out / name / "done.json", when)
            has_state = await asyncio.to_thread(self._take, name, request, when)
            return TrainResult(
                metrics=metrics, seconds=seconds, data_size=self._data_size, has_state=has_state
            )

    async def evaluate(self, model: Path) -> Metrics | None:
        """See `TrainerBackend`: folders measure nothing but what `done.json` says."""
        return None

    async def stop(self, grace_s: float = 5.0) -> None:
        """See `TrainerBackend`; what was handed over stays, for the next start."""
        self._stopped = True

    def _hand_over(self, name: str, request: TrainRequest) -> None:
        """Put the round's folder into `in`, unless the very same is there already."""
        wanted = _request_document(request)
        given = self._in / name
        if _document(given / "request.json") == wanted:
            return
        for stale in (given, self._out / name, self._in / f".{name}.part"):
            shutil.rmtree(stale, ignore_errors=True)
        part = self._in / f".{name}.part"
        part.mkdir()
        shutil.copyfile(request.model_in, part / "model.safetensors")
        if request.state_in is not None:
            _copy(request.state_in, part / "state")
        write_bytes(part / "request.json", json.dumps(wanted, indent=1).encode())
        os.replace(part, given)
        sync_folder(self._in)
        log.info("round handed over", folder=str(given))

    async def _whole(self, out: Path, when: str) -> None:
        began = time.monotonic()
        reminded = began
        while not (out / "done.json").exists():
            if (out / "failed.txt").exists():
                raise TrainingFailed(f"{when}: {out} says: {last_line(out / 'failed.txt')}")
            if self._stopped:
                raise TrainerStopped(f"{when}: stopped while {out} was waited for")
            now = time.monotonic()
            if self._timeout_s is not None and now - began > self._timeout_s:
                raise TrainerSilent(f"{when}: {out / 'done.json'} did not appear in time")
            if now - reminded > _REMIND_S:
                log.info("waiting for a training folder", done=str(out / "done.json"))
                reminded = now
            await asyncio.sleep(self._poll_s)

    def _take(self, name: str, request: TrainRequest, when: str) -> bool:
        # A copy is checked and kept: the other program may still hold its files open.
        scratch = request.model_out.with_name(f"{request.model_out.name}.work")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(self._out / name, scratch)
        return take_result(scratch, request, when)


def _request_document(request: TrainRequest) -> dict[str, object]:
    return {
        "round": request.round,
        "seed": request.seed,
        "fresh_optimizer": request.fresh_optimizer,
        "model": blake3(max_threads=1).update_mmap(request.model_in).hexdigest(),
    }


def _document(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
