"""The daemon's side of training: one contract, three ways to fulfil it.

    TrainingProcess   a user's class in a process of its own, kept between rounds
    CommandTrainer    a command a round          (weft.node.command_trainer)
    FolderTrainer     two folders and no call    (weft.node.folder_trainer)

Nothing here imports torch, and a user's code never runs in the daemon: whatever
it does to its process, the node goes on serving.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from weft.node.child_processes import obituary, output_to, signal_group
from weft.node.errors import TrainerDied, TrainerSilent, TrainerStopped
from weft.node.trainer import Metrics, Scalar
from weft.node.training_messages import (
    FACTS,
    LENGTH,
    RESULT,
    SETTINGS,
    ProcessSettings,
    TrainerFacts,
    TrainRequest,
    TrainResult,
    body_length,
    error_of,
    fields_of,
    frame,
    message_of,
)

__all__ = ["TrainRequest", "TrainResult", "TrainerBackend", "TrainerFacts", "TrainingProcess"]

log = structlog.get_logger(__name__)

_DRAIN_S: Final = 2.0
_KILLED_S: Final = 10.0


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
            device=device,
            threads=threads,
            heartbeat_s=heartbeat_s,
        )
        self._log_file = log_file
        self._silence_limit_s = silence_limit_s
        self._child: _Child | None = None
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

    async def _running(self) -> "_Child":
        if self._child is not None:
            if self._child.is_there:
                return self._child
            await self._discard(self._child)
        child = await _spawn(self._settings, self._log_file)
        self._child = child
        try:
            await child.ready(self._silence_limit_s)
        except BaseException:
            await self._discard(child)
            raise
        log.info("training process started", pid=child.process.pid, trainer=child.facts.name)
        return child

    async def _discard(self, child: "_Child") -> None:
        if self._child is child:
            self._child = None
        await asyncio.shield(child.kill())


class _Child:
    """One training process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log_file: Path | None,
    ) -> None:
        self.process = process
        self.heard_at = time.monotonic()
        self.facts = TrainerFacts(name="", device="")
        self._reader, self._writer = reader, writer
        self._log_file = log_file
        self._busy = False
        self._stopped = False

    @property
    def is_there(self) -> bool:
        """Whether it lives; asked of the kernel, for asyncio hears of it later."""
        try:
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG
            return os.waitid(os.P_PID, self.process.pid, options) is None
        except ChildProcessError:
            return False

    async def ready(self, silence_limit_s: float) -> None:
        """Wait until the trainer is loaded."""
        self.facts = FACTS.validate_python(await self._answer_within(silence_limit_s))

    async def ask(self, message: Mapping[str, object], silence_limit_s: float) -> Any:
        """Send a request and wait for its answer, as long as the process lives."""
        self._writer.write(frame(message))
        with suppress(ConnectionError):  # its death is told by the answer that fails
            await self._writer.drain()
        return await self._answer_within(silence_limit_s)

    async def _answer_within(self, silence_limit_s: float) -> Any:
        self.heard_at = time.monotonic()
        self._busy = True
        answer = asyncio.create_task(self._answer())
        death = asyncio.create_task(self.process.wait())
        try:
            await self._first_of(answer, death, silence_limit_s)
            return await self._outcome(answer)
        finally:
            self._busy = False
            for task in (answer, death):
                task.cancel()
            await asyncio.gather(answer, death, return_exceptions=True)

    async def _first_of(
        self, answer: asyncio.Task[Any], death: asyncio.Task[int], silence_limit_s: float
    ) -> None:
        while True:
            left = self.heard_at + silence_limit_s - time.monotonic()
            done, _ = await asyncio.wait(
                {answer, death}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return
            if time.monotonic() - self.heard_at >= silence_limit_s:
                raise TrainerSilent(
                    f"the training process (pid {self.process.pid}) gave no sign of life for "
                    f"{silence_limit_s:g} s and was killed; is it stopped or out of memory?"
                )

    async def _outcome(self, answer: asyncio.Task[Any]) -> Any:
        # A process that died may have answered before: what it said stands.
        await asyncio.wait({answer}, timeout=_DRAIN_S)
        if answer.done() and not isinstance(answer.exception(), EOFError | ConnectionError):
            return answer.result()
        try:
            status = await asyncio.wait_for(self.process.wait(), _KILLED_S)
        except TimeoutError:
            raise TrainerDied("the training process closed its line and lives on") from None
        if self._stopped:
            raise TrainerStopped("the training process was stopped while it worked")
        raise TrainerDied(obituary("the training process", status, self._log_file))

    async def _answer(self) -> Any:
        while True:
            header = await self._reader.readexactly(LENGTH.size)
            message = message_of(await self._reader.readexactly(body_length(header)))
            self.heard_at = time.monotonic()
            if "error" in message:
                log.debug("training process", traceback=message["error"]["details"])
                raise error_of(message["error"])
            if "answer" in message:
                return message["answer"]

    async def end(self, grace_s: float) -> None:
        """Ask it to end, or cut it short where it works; kill it after `grace_s`."""
        self._stopped = True
        if self._busy:
            signal_group(self.process, signal.SIGTERM)
        else:
            self._writer.write(frame({"do": "stop"}))
        try:
            await asyncio.wait_for(self.process.wait(), grace_s)
        except TimeoutError:
            log.warning("training process killed", pid=self.process.pid, grace_s=grace_s)
        await self.kill()

    async def kill(self) -> None:
        """End it and its children now; returns when it is gone."""
        signal_group(self.process, signal.SIGKILL)
        await self.process.wait()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def _spawn(settings: ProcessSettings, log_file: Path | None) -> _Child:
    ours, theirs = socket.socketpair()
    settings = replace(settings, descriptor=theirs.fileno(), parent=os.getpid())
    try:
        with theirs, output_to(log_file) as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working folder must not shadow packages
                "-m",
                "weft.node.training_process",
                SETTINGS.dump_json(settings).decode(),
                cwd=settings.folder,
                env=_environment(settings.threads),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is the daemon's to handle
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
    return _Child(process, reader, writer, log_file)


def _environment(threads: int) -> dict[str, str]:
    # Hash order and the number of threads are part of what makes bits repeat.
    count = str(threads)
    return {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "PYTHONUNBUFFERED": "1",
    }
