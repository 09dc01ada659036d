"""What a training program of its own wrote: read, checked, and taken over.

Shared by training as a command and training as folders. Everything blocks.
"""

import json
import math
import os
import shutil
from pathlib import Path

from weft.checkpoints.disk import sync_folder
from weft.errors import TrainingFailed
from weft.node.errors import NotFinite
from weft.node.trainer import Metrics
from weft.node.training_messages import TrainRequest


def read_metrics(path: Path, when: str) -> Metrics:
    """A JSON object of numbers; empty where there is no such file.

    Raises:
        TrainingFailed: something else is in it.
        NotFinite: a loss that is NaN or infinite.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise TrainingFailed(f"{when}: {path} is not JSON: {error}") from error
    if not isinstance(document, dict) or not all(_is_number(v) for v in document.values()):
        raise TrainingFailed(f"{when}: {path} is not a JSON object of numbers")
    lost = [name for name, value in document.items() if not math.isfinite(value)]
    if any("loss" in name.lower() for name in lost):
        raise NotFinite(f"{when}: {lost[0]} = {document[lost[0]]}; nothing is kept")
    return {name: float(value) for name, value in document.items() if name not in lost}


def take_result(scratch: Path, request: TrainRequest, when: str) -> bool:
    """Check what a program wrote into a folder and move it to where the request wants it.

    Blocks. `scratch` holds `model.safetensors` and perhaps `state`; it is gone then.

    Returns:
        Whether there was a state.

    Raises:
        TrainingFailed: no checkpoint, or one that cannot be merged.
    """
    from weft.node.model_files import require_sound_file  # torch: not before it is needed

    model, state = scratch / "model.safetensors", scratch / "state"
    if not model.exists():
        raise TrainingFailed(f"{when}: the training ended well, but wrote no checkpoint to {model}")
    require_sound_file(model, request.model_in, f"{when}: after training")
    has_state = state.exists()
    remove(request.state_out)
    for written, final in ((state, request.state_out), (model, request.model_out)):
        if written.exists():
            _sync_tree(written)
            remove(final)
            os.replace(written, final)
    sync_folder(request.model_out.parent)
    shutil.rmtree(scratch)
    return has_state


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(path: Path) -> None:
    for item in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(item, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
