"""Does what a training process is asked: the torch side of training.

Every training starts from files and a seed alone: a new module from `model()`,
parameters and trainer state from disk, all generators seeded. So a round that is
trained again after a kill gives the same bits, on the same build, device and
number of threads (on a GPU as far as the user's operations are deterministic).

The trainer object itself is kept from round to round (it may hold a data set).
What it changes in itself outside of `state()` is its own business, with two
rules: one that has `state()` is built anew where a round starts without any, and
one that raised is never used again.
"""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.writer import write_checkpoint
from weft.errors import InvalidInput, TrainingFailed, WeftError
from weft.node import calibration
from weft.node.errors import BadBatch, NoCalibration
from weft.node.model_files import load_model, require_finite, save_model
from weft.node.trainer import (
    Batch,
    Calibrates,
    Evaluates,
    Metrics,
    Stateful,
    Trainer,
    data_size_of,
    load_trainer,
)
from weft.node.trainer_metrics import metrics_of
from weft.node.trainer_state import load_state, save_state
from weft.node.training_messages import (
    AlignRequest,
    AlignResult,
    ProcessSettings,
    TrainerFacts,
    TrainRequest,
    TrainResult,
    UnitFacts,
    one_line,
)

if TYPE_CHECKING:
    from weft.node.unit_matching import Matcher

log = logging.getLogger(__name__)


class TrainingWorker:
    """One trainer, and what a node asks of it. Everything blocks.

    Sets torch's number of threads for the whole process.

    Raises:
        BadTrainer: the trainer cannot be loaded.
        InvalidInput: there is no such device.
        TrainingFailed: its constructor raised.
    """

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        torch.set_num_threads(settings.threads)
        self._device = _device_of(settings.device)
        # Without effect on a CPU; on a GPU what is left is up to the kernels in use.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self._name = settings.target
        self._trainer: Trainer | None = None
        self._matcher: Matcher | None = None
        self._trained = False
        self._built()

    def facts(self) -> TrainerFacts:
        """What the trainer can do."""
        trainer = self._built()
        return TrainerFacts(
            name=self._name,
            device=str(self._device),
            evaluates=isinstance(trainer, Evaluates),
            calibrates=isinstance(trainer, Calibrates),
            keeps_state=isinstance(trainer, Stateful),
            data_size=data_size_of(trainer),
        )

    def train(self, request: TrainRequest) -> TrainResult:
        """Train one round; model and state lie under their names when this returns.

        Raises:
            TrainingFailed: the trainer raised, or left NaNs or another model.
            SchemaMismatch: `model_in` is not a model of this trainer.
        """
        when = f"round {request.round}"
        trainer = self._trainer_for(request)
        with open_checkpoint(request.model_in) as reader:
            model = self._model(request.seed)
            load_model(model, reader)
            model.train()
            self._give_state(trainer, request)
            seed_everything(request.seed)
            began = time.monotonic()
            with self._blamed("train", when):
                returned = trainer.train(model, request.round)
            seconds = time.monotonic() - began
            metrics = metrics_of(returned, self._name, "train", when)
            require_finite(model, f"{when}: after training")
            has_state = self._take_state(trainer, request, when)
            save_model(model, request.model_out, like=reader)
        size = data_size_of(trainer)
        return TrainResult(metrics=metrics, seconds=seconds, data_size=size, has_state=has_state)

    def evaluate(self, path: Path) -> Metrics | None:
        """Measure a checkpoint; None where the trainer does not measure."""
        trainer = self._built()
        if not isinstance(trainer, Evaluates):
            return None
        model = self._loaded(path).eval()
        seed_everything(0)
        with self._blamed("evaluate", path.name), torch.no_grad():
            returned = trainer.evaluate(model)
        return metrics_of(returned, self._name, "evaluate", path.name)

    def calibrate(self, path: Path, moments_out: Path) -> bool:
        """Write the moments of a checkpoint's BatchNorm inputs on calibration data."""
        model = self._loaded(path)
        moments = self._moments(model, path)
        if moments:
            write_checkpoint(moments_out, calibration.moment_tensors(moments))
        return bool(moments)

    def re_estimate(self, model_in: Path, model_out: Path) -> bool:
        """Write the checkpoint with running statistics measured on calibration data."""
        with open_checkpoint(model_in) as reader:
            if not reader.schema.statistics:
                return False
            model = self._model(0)
            load_model(model, reader)
            moments = self._moments(model, model_in)
            if moments:
                calibration.set_running_statistics(model, moments)
                save_model(model, model_out, like=reader)
        return bool(moments)

    def units(self) -> UnitFacts:
        """What of the model can change places; traces it where that is not done yet.

        Raises:
            CannotAlign: torch cannot trace the model.
            NoCalibration: the trainer has no calibration data.
        """
        return self._matching().facts()

    def align(self, request: AlignRequest) -> AlignResult:
        """Write models in the order of the anchor's units; see `units` for what it raises."""
        began = time.monotonic()
        matcher = self._matching()
        moved = matcher.align(request, self._batches(request.anchor.name))
        return AlignResult(moved=tuple(moved), seconds=time.monotonic() - began)

    def initial_model(self, path: Path, seed: int) -> None:
        """Write a new model of the trainer, drawn from the seed."""
        save_model(self._model(seed), path)

    def _built(self) -> Trainer:
        if self._trainer is None:
            seed_everything(0)
            settings = self._settings
            with self._blamed("__init__", "start"):
                self._trainer = load_trainer(settings.target, settings.options, settings.folder)
            self._trained = False
        return self._trainer

    def _trainer_for(self, request: TrainRequest) -> Trainer:
        if request.state_in is None and self._trained and isinstance(self._built(), Stateful):
            self._trainer = None
        trainer = self._built()
        self._trained = True
        return trainer

    def _model(self, seed: int) -> nn.Module:
        seed_everything(seed)
        with self._blamed("model", "building a model"):
            model = self._built().model()
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise TrainingFailed(f"{self._name}: model() gave a {kind}, expected a torch module")
        return model.to(self._device)

    def _loaded(self, path: Path) -> nn.Module:
        model = self._model(0)
        with open_checkpoint(path) as reader:
            load_model(model, reader)
        return model

    def _moments(self, model: nn.Module, path: Path) -> dict[str, calibration.Moments]:
        trainer = self._built()
        if not isinstance(trainer, Calibrates) or not calibration.batch_norms(model):
            return {}
        seed_everything(0)
        with self._blamed("calibration", path.name):
            return calibration.pooled_moments(model, trainer.calibration())

    def _matching(self) -> "Matcher":
        if self._matcher is None:
            # Here, because torch's tracing takes seconds to import and few runs align.
            from weft.merging.alignment.overrides import Overrides
            from weft.node.overrides import load_overrides
            from weft.node.unit_matching import Matcher

            first = next(self._batches("start"), None)
            if first is None:
                raise BadBatch(
                    "calibration() gave no batch; give at least one, or leave the method out"
                )
            overrides = self._settings.overrides
            wanted = Overrides() if overrides is None else load_overrides(overrides)
            self._matcher = Matcher(self._model(0), first, wanted)
        return self._matcher

    def _batches(self, when: str) -> Iterator[Batch]:
        trainer = self._built()
        if not isinstance(trainer, Calibrates):
            raise NoCalibration(
                f"the run aligns units, and {self._name} has no calibration() to trace and match"
                " them with: let it give a few batches of inputs, or create the run with"
                " merge.align = 'none'"
            )
        seed_everything(0)
        with self._blamed("calibration", when):
            yield from trainer.calibration()

    def _give_state(self, trainer: Trainer, request: TrainRequest) -> None:
        if request.state_in is None or not isinstance(trainer, Stateful):
            return
        state = load_state(request.state_in)
        if request.fresh_optimizer:
            state.pop("optimizer", None)
        with self._blamed("load_state", f"round {request.round}"):
            trainer.load_state(state)

    def _take_state(self, trainer: Trainer, request: TrainRequest, when: str) -> bool:
        if not isinstance(trainer, Stateful):
            request.state_out.unlink(missing_ok=True)
            return False
        with self._blamed("state", when):
            state = trainer.state()
        save_state(state, request.state_out, where=f"{when}: {self._name}.state()")
        return True

    @contextmanager
    def _blamed(self, method: str, when: str) -> Iterator[None]:
        """Turn what the user's code raises into one line; its traceback goes to the log."""
        try:
            yield
        except WeftError:
            self._trainer = None
            raise
        except (Exception, SystemExit) as error:
            self._trainer = None
            log.exception("%s: %s raised", when, method)
            raise TrainingFailed(
                f"{when}: {self._name}.{method} raised {one_line(error)}"
            ) from error


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and random from up to 64 bits."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**64)


def _device_of(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(
            f"device {name!r} cannot be used here ({one_line(error)[:120]}); "
            'write "auto", "cpu" or "cuda:0"'
        ) from error
    return device
