"""Which of the three ways to train a configuration asks for."""

from pathlib import Path

from weft.errors import InvalidInput
from weft.node.command_trainer import CommandTrainer
from weft.node.config import TrainConfig
from weft.node.folder_trainer import FolderTrainer
from weft.node.training import TrainerBackend, TrainingProcess

SILENCE_LIMIT_S = 600.0
"""A training process that gives no sign of life for so long is killed."""


def backend_for(config: TrainConfig, *, folder: Path, data: Path) -> TrainerBackend:
    """The trainer of a node; not started yet.

    Args:
        config: the `[train]` section.
        folder: where the user's module is looked for, and commands run.
        data: the node's data folder; what training prints is kept there.
    """
    log_file = data / "training.log"
    if config.trainer is not None:
        return TrainingProcess(
            config.trainer,
            folder=folder,
            options=config.options,
            overrides=None if config.overrides is None else config.overrides.absolute(),
            device=config.device,
            threads=config.threads,
            log_file=log_file,
            silence_limit_s=config.timeout_s or SILENCE_LIMIT_S,
        )
    if config.command is not None:
        return CommandTrainer(
            config.command,
            folder=folder,
            evaluate_command=config.evaluate_command,
            data_size=config.data_size or None,
            timeout_s=config.timeout_s,
            log_file=log_file,
        )
    if config.folder is not None:
        return FolderTrainer(
            config.folder, data_size=config.data_size or None, timeout_s=config.timeout_s
        )
    raise InvalidInput("[train] names no trainer, no command and no folder")
