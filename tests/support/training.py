"""What the tests of training share: where the trainers lie, and requests to them."""

from pathlib import Path

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
