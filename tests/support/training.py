"""What the tests of training share: trainers, requests to them, and waiting for an end."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from safetensors.torch import load_file
from torch import Tensor

from weft.node.training_messages import ProcessSettings, TrainRequest
from weft.node.training_worker import TrainingWorker

TRAINERS = Path(__file__).parents[1] / "node" / "trainers"
MODULE = "weft_test_trainers"


def worker_of(name: str, **options: bool | int | float | str) -> TrainingWorker:
    """A worker in this process, for one of the trainers of the tests."""
    return TrainingWorker(
        ProcessSettings(target=f"{MODULE}:{name}", folder=TRAINERS, options=options, device="cpu")
    )


def request_in(
    folder: Path, round: int = 0, *, model_in: str = "model.safetensors", state_in: str = ""
) -> TrainRequest:
    """A request whose results are named by the round."""
    return TrainRequest(
        round=round,
        seed=1000 + round,
        model_in=folder / model_in,
        state_in=folder / state_in if state_in else None,
        model_out=folder / f"trained-{round}.safetensors",
        state_out=folder / f"state-{round}.pt",
    )


def tensors_of(path: Path) -> dict[str, Tensor]:
    """A checkpoint as the safetensors library reads it."""
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


async def eventually(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something becomes true in time, without holding up the event loop."""
    return await asyncio.to_thread(_becomes, true, seconds)


def _becomes(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def text_of(path: Path) -> str:
    """What is in a file; "" where there is none yet."""
    return path.read_text() if path.exists() else ""
