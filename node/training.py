"""The daemon's side of training: one contract, three ways to fulfil it.

    TrainingProcess   a user's class in a process of its own, kept between rounds
    CommandTrainer    a command a round          (weft.node.command_trainer)
    FolderTrainer     two folders and no call    (weft.node.folder_trainer)

Nothing here imports torch, and a user's code never runs in the daemon: whatever
it does to its process, the node goes on serving.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from weft.node.errors import TrainerDied, TrainerSilent, TrainerStopped
from weft.node.trainer import Metrics, Scalar
from weft.node.training_child import TrainingChild, spawn
from weft.node.training_messages import (
    ALIGNED,
    RESULT,
    UNITS,
    AlignRequest,
    AlignResult,
    ProcessSettings,
    TrainerFacts,
    TrainRequest,
    TrainResult,
    UnitFacts,
    fields_of,
)

__all__ = [
    "AlignRequest",
    "AlignResult",
    "TrainRequest",
    "TrainResult",
    "TrainerBackend",
    "TrainerFacts",
    "TrainingProcess",
    "UnitFacts",
]

log = structlog.get_logger(__name__)


class TrainerBackend(Protocol):
    """What a node asks of whoever trains. One call at a time; cancelling one ends it."""

    async def start(self) -> TrainerFacts:
        """Get ready; says what the trainer can do. Calls start by themselves too."""
        ...

    async def train(self, request: TrainRequest) -> TrainResult:
        """Train a round. Its files are durable, finite and of the same schema then.

        Raises:
            TrainingFailed: the user's code failed; the line ends with its own error.
        """
        ...

    async def evaluate(self, model: Path) -> Metrics | None:
        """Measure a checkpoint; None where the trainer does not measure."""
        ...

    async def calibrate(self, model: Path, moments_out: Path) -> bool:
        """Write the pooled moments of the BatchNorm inputs; see `weft.node.calibration`.

        Returns:
            False, and no file, where the trainer has no calibration data or the
            model no BatchNorm.
        """
        ...

    async def re_estimate(self, model_in: Path, model_out: Path) -> bool:
        """Write a checkpoint with running statistics measured anew; as `calibrate`."""
        ...

    async def units(self) -> UnitFacts:
        """What of the model can change places; `align` knows it from then on.

        Raises:
            CannotAlign: the model cannot be traced.
            NoCalibration: the trainer has no batch to trace it with.
            NoModule: this kind of trainer has no module.
        """
        ...

    async def align(self, request: AlignRequest) -> AlignResult:
        """Bring models into the order of an anchor's units; the same files, the same bytes.

        Raises:
            CannotAlign, NoCalibration, NoModule: as `units`.
        """
        ...

    async def initial_model(self, path: Path, seed: int) -> None:
        """Write a new model.

        Raises:
            NoInitialModel: this kind of trainer has none.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """End; what is under way is cut short. Waits `grace_s` before it kills."""
        ...


class TrainingProcess:
    """A trainer class in a process of its own: the `TrainerBackend` of most nodes.

    The process is started when it is first needed and after it died; a call that
    is cancelled kills it. Build and use it on one event loop.

    Args:
        target: `module:Class`.
        folder: where the module is looked for first; the process works there.
        options: the constructor's keyword arguments.
        overrides: a file that pins and splits groups of units.
        device: a torch device, or "auto": cuda where there is one.
        threads: torch threads.
        log_file: where the user's code prints to; None: this process's stderr.
        silence_limit_s: without a sign of life for so long it is killed.
        heartbeat_s: how often it gives one.
    """

    def __init__(
        self,
        target: str,
        *,
        folder: Path,
        options: Mapping[str, Scalar] | None = None,
        overrides: Path | None = None,
        device: str = "auto",
        threads: int = 1,
        log_file: Path | None = None,
        silence_limit_s: float = 600.0,
        heartbeat_s: float = 5.0,
    ) -> None:
        self._settings = ProcessSettings(
            target=target,
            folder=folder,
            options=dict(options or {}),
            overrides=overrides,
            device=device,
            threads=threads,
            heartbeat_s=heartbeat_s,
        )
        self._log_file = log_file
        self._silence_limit_s = silence_limit_s
        self._child: TrainingChild | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> TrainerFacts:
        """See `TrainerBackend`; raises what loading the trainer raises."""
        async with self._lock:
            return (await self._running()).facts

    async def train(self, request: TrainRequest) -> TrainResult:
        """See `TrainerBackend`."""
        answer = await self._ask("train", request=fields_of(request))
        return RESULT.validate_python(answer)

    async def evaluate(self, model: Path) -> Metrics | None:
        """See `TrainerBackend`."""
        answer: Metrics | None = await self._ask("evaluate", model=model)
        return answer

    async def calibrate(self, model: Path, moments_out: Path) -> bool:
        """See `TrainerBackend`."""
        return bool(await self._ask("calibrate", model=model, out=moments_out))

    async def re_estimate(self, model_in: Path, model_out: Path) -> bool:
        """See `TrainerBackend`."""
        return bool(await self._ask("re_estimate", model=model_in, out=model_out))

    async def units(self) -> UnitFacts:
        """See `TrainerBackend`."""
        return UNITS.validate_python(await self._ask("units"))

    async def align(self, request: AlignRequest) -> AlignResult:
        """See `TrainerBackend`."""
        answer = await self._ask("align", request=fields_of(request))
        return ALIGNED.validate_python(answer)

    async def initial_model(self, path: Path, seed: int) -> None:
        """See `TrainerBackend`."""
        await self._ask("initial_model", out=path, seed=seed)

    async def stop(self, grace_s: float = 5.0) -> None:
        """See `TrainerBackend`; a call under way raises `TrainerStopped`."""
        child, self._child = self._child, None
        if child is not None:
            await child.end(grace_s)

    @property
    def pid(self) -> int | None:
        """The process, where one lives."""
        child = self._child
        return child.process.pid if child is not None and child.is_there else None

    @property
    def silent_s(self) -> float:
        """Seconds since the process last showed that it lives; 0 where there is none."""
        return 0.0 if self._child is None else time.monotonic() - self._child.heard_at

    async def _ask(self, do: str, **fields: object) -> Any:
        async with self._lock:
            child = await self._running()
            try:
                return await child.ask({"do": do, **fields}, self._silence_limit_s)
            except (asyncio.CancelledError, TrainerDied, TrainerSilent, TrainerStopped):
                await self._discard(child)
                raise

    async def _running(self) -> "TrainingChild":
        if self._child is not None:
            if self._child.is_there:
                return self._child
            await self._discard(self._child)
        child = await spawn(self._settings, self._log_file)
        self._child = child
        try:
            await child.ready(self._silence_limit_s)
        except BaseException:
            await self._discard(child)
            raise
        log.info("training process started", pid=child.process.pid, trainer=child.facts.name)
        return child

    async def _discard(self, child: "TrainingChild") -> None:
        if self._child is child:
            self._child = None
        await asyncio.shield(child.kill())
