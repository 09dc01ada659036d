"""One training process as the daemon holds it: started, asked, listened to, ended."""

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
from typing import Any, Final

import structlog

from weft.node.child_processes import obituary, output_to, signal_group
from weft.node.errors import TrainerDied, TrainerSilent, TrainerStopped
from weft.node.training_messages import (
    FACTS,
    LENGTH,
    SETTINGS,
    ProcessSettings,
    TrainerFacts,
    body_length,
    error_of,
    frame,
    message_of,
)

log = structlog.get_logger(__name__)

_DRAIN_S: Final = 2.0
_KILLED_S: Final = 10.0


class TrainingChild:
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


async def spawn(settings: ProcessSettings, log_file: Path | None) -> TrainingChild:
    """Start a training process; call `ready` on it next."""
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
    return TrainingChild(process, reader, writer, log_file)


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
