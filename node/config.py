"""A node's configuration: one TOML file, every key with a default but four."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weft.protocol.configuration import FilePath, load_toml
from weft.protocol.run import Scalar


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainConfig(_Section):
    """How this node trains: exactly one of `trainer`, `command` and `folder`.

    `timeout_s` is how long a command or folder may take for a round; for a trainer,
    how long its process may give no sign of life. `overrides` pins and splits groups of
    units of a trainer class's model, where the run aligns.
    """

    trainer: str | None = None
    command: str | None = None
    evaluate_command: str | None = None
    folder: FilePath | None = None
    options: dict[str, Scalar] = Field(default_factory=dict)
    overrides: FilePath | None = None
    device: str = "auto"
    threads: int = Field(default=1, ge=1)
    data_size: int = Field(default=0, ge=0)
    timeout_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> "TrainConfig":
        given = [key for key in ("trainer", "command", "folder") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"wants exactly one of trainer, command, folder; found {found}")
        return self


class NodeConfig(_Section):
    """What `weft node --config FILE` reads; relative paths are relative to the file.

    `folder` is where the trainer's module is looked for: the file's own folder.
    """

    run: str
    coordinator: str
    coordinator_name: str = "coordinator"
    listen: str = "0.0.0.0:9500"
    advertise: str | None = None
    credentials: FilePath
    data: FilePath
    folder: FilePath = Field(default=Path(), validate_default=True)
    base: FilePath | None = None
    metrics: str = "127.0.0.1:9401"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    linger_s: float = Field(default=600.0, ge=0)
    progress_s: float = Field(default=10.0, gt=0)
    share_patience_s: float = Field(default=30.0, gt=0)
    train: TrainConfig


def load_node_config(path: Path) -> NodeConfig:
    """Read a node's TOML file.

    Raises:
        InvalidInput: no such file, an unknown key (with the nearest valid one),
            a value of the wrong kind.
    """
    return load_toml(path, NodeConfig)
