"""Training as a command: a program of its own, in any language, on any launcher.

    train.command = "torchrun train.py --from {checkpoint_in} --to {checkpoint_out}"

The command is split into words as a shell would, but no shell runs it; then these
are filled in, each into its word:

    {checkpoint_in}    safetensors file to start from
    {checkpoint_out}   where to write the trained one: the same names, shapes, dtypes
    {round} {seed}     numbers
    {state_in}         what the command kept last time, or nothing; its own format
    {state_out}        where to keep something for the next round, a file or a folder
    {metrics_out}      where to write a JSON object of numbers, if it likes
    {fresh_optimizer}  1: do not go on with the old optimizer; else 0

An exit status other than 0 is a failed training; so is a checkpoint that is
missing, of another shape, or not finite. An evaluation command, if there is one,
gets {checkpoint_in} and {metrics_out}.
"""

import asyncio
import shlex
import shutil
import string
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from weft.node.child_processes import obituary, output_to
from weft.node.errors import BadTrainer, TrainerDied, TrainerStopped
from weft.node.external_results import read_metrics, remove, take_result
from weft.node.trainer import Metrics
from weft.node.training_messages import (
    TrainerFacts,
    TrainRequest,
    TrainResult,
)
from weft.node.without_module import WithoutModule

log = structlog.get_logger(__name__)

TRAIN_FIELDS: Final = (
    "checkpoint_in",
    "checkpoint_out",
    "round",
    "seed",
    "state_in",
    "state_out",
    "metrics_out",
    "fresh_optimizer",
)
EVALUATE_FIELDS: Final = ("checkpoint_in", "metrics_out")


class CommandTrainer(WithoutModule):
    """A `TrainerBackend` that runs a command a round.

    Args:
        command: with the fields of the module's table.
        folder: where the command runs.
        evaluate_command: likewise, to measure a checkpoint.
        data_size: how many samples this node has, if it says so.
        timeout_s: a command that runs longer is ended; None: none.
        grace_s: between asking a command to end and killing it.
        log_file: where commands print to; None: this process's stderr.

    Raises:
        BadTrainer: no such program, an unknown field, or one that is needed lacks.
    """

    def __init__(
        self,
        command: str,
        *,
        folder: Path,
        evaluate_command: str | None = None,
        data_size: int | None = None,
        timeout_s: float | None = None,
        grace_s: float = 5.0,
        log_file: Path | None = None,
    ) -> None:
        self._folder = folder
        self._train = _words(command, TRAIN_FIELDS, ("checkpoint_in", "checkpoint_out"), folder)
        super().__init__(f"the training command {self._train[0]!r}")
        self._evaluate = None
        if evaluate_command is not None:
            self._evaluate = _words(evaluate_command, EVALUATE_FIELDS, EVALUATE_FIELDS, folder)
        self._data_size = data_size
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self._log_file = log_file
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False

    async def start(self) -> TrainerFacts:
        """See `TrainerBackend`; nothing is started before the first round."""
        return TrainerFacts(
            name=self._train[0],
            device="its own",
            evaluates=self._evaluate is not None,
            keeps_state=any("{state_out}" in word for word in self._train),
            data_size=self._data_size,
        )

    async def train(self, request: TrainRequest) -> TrainResult:
        """See `TrainerBackend`."""
        async with self._lock:
            scratch = request.model_out.with_name(f"{request.model_out.name}.work")
            await asyncio.to_thread(_fresh_folder, scratch)
            began = time.monotonic()
            when = f"round {request.round}"
            await self._run(_filled(self._train, _values(request, scratch)), when)
            seconds = time.monotonic() - began
            metrics = read_metrics(scratch / "metrics.json", when)
            has_state = await asyncio.to_thread(take_result, scratch, request, when)
            return TrainResult(
                metrics=metrics, seconds=seconds, data_size=self._data_size, has_state=has_state
            )

    async def evaluate(self, model: Path) -> Metrics | None:
        """See `TrainerBackend`."""
        if self._evaluate is None:
            return None
        async with self._lock:
            scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="weft-evaluate-"))
            metrics, when = scratch / "metrics.json", f"evaluating {model.name}"
            words = _filled(self._evaluate, _evaluation_values(model, metrics))
            try:
                await self._run(words, when)
                return read_metrics(metrics, when)
            finally:
                await asyncio.to_thread(remove, scratch)

    async def stop(self, grace_s: float = 5.0) -> None:
        """See `TrainerBackend`; the command itself was given its grace when built."""
        self._stopped = True
        if self._process is not None:
            await _ended(self._process)

    async def _run(self, words: list[str], when: str) -> None:
        log.info("training command", when=when, command=shlex.join(words))
        self._stopped = False
        self._process = await self._started(words)
        try:
            status = await asyncio.wait_for(self._process.wait(), self._timeout_s)
        except TimeoutError:
            raise TrainerDied(
                f"{when}: the command ran longer than {self._timeout_s:g} s and was ended"
            ) from None
        finally:
            await asyncio.shield(_ended(self._process))
            self._process = None
        if self._stopped:
            raise TrainerStopped(f"{when}: the command was stopped while it worked")
        if status != 0:
            raise TrainerDied(f"{when}: {obituary('the command', status, self._log_file)}")

    async def _started(self, words: list[str]) -> asyncio.subprocess.Process:
        between = (sys.executable, "-P", "-m", "weft.node.command_process", str(self._grace_s))
        with output_to(self._log_file) as output:
            return await asyncio.create_subprocess_exec(
                *between,
                "--",
                *words,
                cwd=self._folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _values(request: TrainRequest, scratch: Path) -> dict[str, str]:
    work = scratch.absolute()
    return {
        "checkpoint_in": str(request.model_in.absolute()),
        "checkpoint_out": str(work / "model.safetensors"),
        "round": str(request.round),
        "seed": str(request.seed),
        "state_in": "" if request.state_in is None else str(request.state_in.absolute()),
        "state_out": str(work / "state"),
        "metrics_out": str(work / "metrics.json"),
        "fresh_optimizer": str(int(request.fresh_optimizer)),
    }


def _evaluation_values(model: Path, metrics: Path) -> dict[str, str]:
    return {"checkpoint_in": str(model.absolute()), "metrics_out": str(metrics)}


def _words(
    command: str, allowed: tuple[str, ...], needed: tuple[str, ...], folder: Path
) -> list[str]:
    try:
        words = shlex.split(command)
        used = {name for word in words for _, name, _, _ in string.Formatter().parse(word)}
    except ValueError as error:
        raise BadTrainer(f"training command {command!r}: {error}") from error
    unknown = sorted(name for name in used if name is not None and name not in allowed)
    if unknown:
        raise BadTrainer(
            f"training command {command!r}: unknown field {{{unknown[0]}}}; "
            f"there are {', '.join(allowed)} (write {{{{ for a brace)"
        )
    missing = [name for name in needed if name not in used]
    if missing:
        raise BadTrainer(f"training command {command!r} lacks {{{missing[0]}}}; put it in")
    if not words or not _program(words[0], folder):
        raise BadTrainer(
            f"training command {command!r}: no program {words[0] if words else ''!r} "
            f"in {folder} or on PATH"
        )
    return words


def _program(name: str, folder: Path) -> bool:
    return shutil.which(folder / name if "/" in name else name) is not None


def _filled(words: list[str], values: Mapping[str, str]) -> list[str]:
    return [word.format_map(values) for word in words]


async def _ended(process: asyncio.subprocess.Process) -> None:
    # Closing its input makes the process between take the command down.
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


def _fresh_folder(folder: Path) -> None:
    remove(folder)
    folder.mkdir(parents=True)
